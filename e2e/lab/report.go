package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	maxReasons    = 12  // lines of one failed test that RunTests repeats
	maxReasonSize = 400 // bytes of such a line
)

// RunTests runs a package's tests and returns the exit status. Where some fail,
// circumstances prints what is known beside, and then the failures are told once
// more: at the end of the output, where a log of CI is read first.
func RunTests(m interface{ Run() int }, circumstances func(io.Writer)) (code int) {
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	var failures []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		failures = readFailures(io.TeeReader(r, stdout))
	}()
	os.Stdout = w
	code = m.Run()
	os.Stdout = stdout
	_ = w.Close() // nothing is buffered
	<-read
	if code != 0 {
		circumstances(stdout)
		fmt.Fprintf(stdout, "\n--- what failed, once more:\n%s", strings.Join(failures, ""))
	}
	return code
}

// readFailures reads what package testing prints, to the end, and returns the
// lines that tell of failures: those of a test are below its name, or with -v
// above.
func readFailures(r io.Reader) (failures []string) {
	said := map[string][]string{} // by test, the last lines above
	current := ""                 // who says what is read
	depth := -1                   // of the failure that is being told below its name
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		text := strings.TrimLeft(strings.TrimPrefix(line, "\x16"), " ") // what `go test -json` marks lines with
		indent := len(strings.TrimPrefix(line, "\x16")) - len(text)
		verb, rest, _ := strings.Cut(text, ":")
		name, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		switch {
		case verb == "--- FAIL":
			failures = append(append(failures, said[name]...), clip(line))
			delete(said, name)
			depth = indent
		case verb == "--- PASS" || verb == "--- SKIP":
			delete(said, name)
			depth = -1
		case strings.HasPrefix(text, "=== "):
			if f := strings.Fields(text); len(f) == 3 {
				current = f[2]
			}
			depth = -1
		case depth >= 0 && indent > depth:
			if below := len(failures) - 1 - lastFailure(failures); below < maxReasons {
				failures = append(failures, clip(line))
			}
		case indent > 0:
			own := append(said[current], clip(line))
			said[current] = own[max(0, len(own)-maxReasons):]
		}
		if err != nil {
			return failures
		}
	}
}

func lastFailure(lines []string) int {
	for i, line := range slices.Backward(lines) {
		if strings.Contains(line, "--- FAIL: ") {
			return i
		}
	}
	return 0
}

func clip(line string) string {
	line = strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "\x16")
	if len(line) > maxReasonSize {
		line = line[:maxReasonSize] + "…"
	}
	return line + "\n"
}
