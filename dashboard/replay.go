package dashboard

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard/terminal"
)

// Limits of showing one page of a recording.
const (
	maxRecordedLine = 1 << 20         // bytes; the recorder's are shorter
	maxReplayTime   = 2 * time.Second // of work for one page: what moves the screen much costs more than it says
	maxTranscript   = 256 << 10       // bytes of text on one page
	maxChunks       = 2000            // on one page
)

// frame is a terminal's screen at one instant of a recording.
type frame struct {
	Lines []string
	At    float64 // seconds since the beginning
	Next  float64 // when something changes after At; 0: nothing does
	End   float64 // when the last thing happened
	Mark  string  // the last remark of the recorder up to At
	Cut   bool    // working it out took too long: this is as far as it went
}

// recordedLines reads a recording's lines but the first, until each returns false.
func recordedLines(content io.Reader, each func(line []byte) bool) error {
	in := bufio.NewScanner(content)
	in.Buffer(make([]byte, 64<<10), maxRecordedLine)
	first := true
	for in.Scan() {
		if first {
			first = false
			continue
		}
		if !each(in.Bytes()) {
			return nil
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("reading a recording: %w", err)
	}
	return nil
}

// replay works out the screen of an asciicast (version 2) of that size at an
// instant. A line that is none, such as the last of a recording that is being
// written, is passed over.
func replay(content io.Reader, columns, rows uint32, at float64) (frame, error) {
	screen := terminal.New(columns, rows)
	f := frame{At: at}
	begun, events := time.Now(), 0
	late := func() bool { return time.Since(begun) > maxReplayTime }
	err := recordedLines(content, func(line []byte) bool {
		var event [3]any
		if json.Unmarshal(line, &event) != nil {
			return true
		}
		when, ok1 := event[0].(float64)
		code, ok2 := event[1].(string)
		data, ok3 := event[2].(string)
		if !ok1 || !ok2 || !ok3 {
			return true
		}
		events++
		f.End = max(f.End, when)
		if when > at {
			if f.Next == 0 && (code == "o" || code == "r") {
				f.Next = when
			}
			return events%1024 != 0 || !late() // for the end's sake only
		}
		switch code {
		case "o":
			for data != "" && !f.Cut {
				const piece = 4 << 10 // bytes between two looks at the clock
				n := min(len(data), piece)
				_, _ = screen.Write([]byte(data[:n]))
				data = data[n:]
				f.Cut = n == piece && late()
			}
		case "r":
			var w, h uint32
			if n, _ := fmt.Sscanf(data, "%dx%d", &w, &h); n == 2 {
				screen.Resize(w, h)
			}
		case "m":
			f.Mark = data
		}
		if events%64 == 0 && late() {
			f.Cut = true
		}
		if f.Cut {
			f.At = when
		}
		return !f.Cut
	})
	f.Lines = screen.Lines()
	return f, err
}

// chunk is what a transcript has of one stream at one instant.
type chunk struct {
	At     float64
	Stream string // "stdout", "stderr", "stdin"; empty: a remark of the recorder
	Text   string // made safe to look at
}

// transcript reads the chunks from the first one on, as many as a page holds, and
// which is the next; 0: none is.
func transcript(content io.Reader, from int) (chunks []chunk, next int, err error) {
	n, size := 0, 0
	err = recordedLines(content, func(line []byte) bool {
		var e struct {
			At     float64 `json:"t"`
			Stream string  `json:"stream"`
			Text   string  `json:"text"`
			Base64 string  `json:"base64"`
			Mark   string  `json:"mark"`
		}
		if json.Unmarshal(line, &e) != nil {
			return true
		}
		n++
		if n <= from {
			return true
		}
		if len(chunks) == maxChunks || size >= maxTranscript {
			next = n - 1
			return false
		}
		c := chunk{At: e.At, Stream: shown(e.Stream), Text: shownLines(e.Text)}
		switch {
		case e.Mark != "":
			c.Stream, c.Text = "", shown(e.Mark)
		case e.Base64 != "":
			c.Text = fmt.Sprintf("(%s that are not text)", plural(base64.StdEncoding.DecodedLen(len(e.Base64)), "byte"))
		}
		size += len(c.Text)
		chunks = append(chunks, c)
		return true
	})
	return chunks, next, err
}

// shownLines is shown for text of many lines, which stay, and of any length: the
// page's is bounded.
func shownLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		body := strings.TrimRight(line, "\r\n")
		for piece := range slices.Chunk([]rune(strings.ReplaceAll(body, "\t", "        ")), maxShown) {
			b.WriteString(shown(string(piece)))
		}
		if strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
