package https

import (
	"bufio"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// writeFields writes header's fields by name. What would not stay one field is
// not written as it is: a name that is none is left out, and a line break in a
// value becomes a blank.
func writeFields(w *bufio.Writer, header http.Header) {
	var few [32]string
	names := few[:0]
	for name := range header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := header[name]
		if len(values) == 0 || !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				value = oneLine.Replace(value)
			}
			_, _ = w.WriteString(name)
			_, _ = w.WriteString(": ")
			_, _ = w.WriteString(textproto.TrimString(value))
			_, _ = w.WriteString("\r\n")
		}
	}
}

// writeChunk writes p as one chunk (RFC 9112 section 7.1), and returns how much
// of p was written. An empty one would end the body.
func writeChunk(w *bufio.Writer, p []byte) (n int, err error) {
	var size [16]byte
	_, _ = w.Write(strconv.AppendInt(size[:0], int64(len(p)), 16))
	_, _ = w.WriteString("\r\n")
	n, _ = w.Write(p)
	_, err = w.WriteString("\r\n")
	return n, err
}

// sendable reports whether all fields of a header are what they must be. Who
// reads them from the agent sees to it; what is injected is checked as well; but
// a request that falls in two would be one nobody decided about.
func sendable(header http.Header) bool {
	for name, values := range header {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return false
			}
		}
	}
	return true
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ", "\x00", " ")
