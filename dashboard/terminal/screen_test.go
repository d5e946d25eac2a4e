package terminal_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/dashboard/terminal"
)

// screen is what a screen of 10 by 4 shows after output, its lines between bars.
func screen(output string) string {
	s := terminal.New(10, 4)
	_, _ = s.Write([]byte(output))
	return "|" + strings.Join(s.Lines(), "|") + "|"
}

func TestScreen(t *testing.T) {
	for name, test := range map[string]struct{ output, want string }{
		"nothing":             {"", "|||||"},
		"lines":               {"one\r\ntwo\r\n", "|one|two|||"},
		"bare line feed":      {"one\ntwo", "|one|   two|||"},
		"carriage return":     {"12345\rab", "|ab345||||"},
		"backspace":           {"abc\b\bX", "|aXc||||"},
		"backspace at start":  {"\b\bX", "|X||||"},
		"tab":                 {"a\tb", "|a       b||||"},
		"wraps":               {"0123456789ab", "|0123456789|ab|||"},
		"wraps late":          {"0123456789\rX", "|X123456789||||"},
		"does not wrap":       {"\x1b[?7l0123456789ab", "|012345678b||||"},
		"scrolls":             {"1\r\n2\r\n3\r\n4\r\n5", "|2|3|4|5|"},
		"moves":               {"\x1b[3;4HX\x1b[1;1HY\x1b[2;9999HZ", "|Y|         Z|   X||"},
		"moves relatively":    {"\x1b[2B\x1b[3CX\x1b[A\x1b[2DY", "||  Y|   X||"},
		"moves by line":       {"abc\x1b[EX\x1b[FY\x1b[4GZ", "|YbcZ|X|||"},
		"erases to the end":   {"abcdef\x1b[1;3H\x1b[K", "|ab||||"},
		"erases to the start": {"abcdef\x1b[1;3H\x1b[1K", "|   def||||"},
		"erases the line":     {"abc\x1b[2K", "|||||"},
		"clears":              {"abc\r\ndef\x1b[2J\x1b[HX", "|X||||"},
		"clears below":        {"a\r\nb\r\nc\x1b[2;1H\x1b[J", "|a||||"},
		"clears above":        {"a\r\nb\r\nc\x1b[2;1H\x1b[1J", "|||c||"},
		"erases characters":   {"abcdef\x1b[1;2H\x1b[3X", "|a   ef||||"},
		"inserts":             {"abcdef\x1b[1;2H\x1b[2@", "|a  bcdef||||"},
		"deletes":             {"abcdef\x1b[1;2H\x1b[2P", "|adef||||"},
		"inserts lines":       {"1\r\n2\r\n3\x1b[2;1H\x1b[L", "|1||2|3|"},
		"deletes lines":       {"1\r\n2\r\n3\x1b[1;1H\x1b[M", "|2|3|||"},
		"region":              {"1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3;1H\n", "|1|3||4|"},
		"reverse line feed":   {"1\r\n2\x1b[H\x1bM", "||1|2||"},
		"scroll up":           {"1\r\n2\x1b[S", "|2||||"},
		"scroll down":         {"1\r\n2\x1b[T", "||1|2||"},
		"saves":               {"ab\x1b7\r\ncd\x1b8X", "|abX|cd|||"},
		"alternate":           {"shell\x1b[?1049h\x1b[Heditor\x1b[?1049l$", "|shell$||||"},
		"alternate shown":     {"shell\x1b[?1049h\x1b[Heditor", "|editor||||"},
		"resets":              {"abc\x1bcX", "|X||||"},
		"colours":             {"\x1b[1;31mred\x1b[0m \x1b[38;5;200mpink\x1b[m", "|red pink||||"},
		"true colour":         {"\x1b[38:2::1:2:3mx", "|x||||"},
		"title":               {"\x1b]0;a title\x07x\x1b]2;another\x1b\\y", "|xy||||"},
		"device control":      {"\x1bPq#0;2;0;0;0\x1b\\x", "|x||||"},
		"charset":             {"\x1b(Bx", "|x||||"},
		"keypad":              {"\x1b=x\x1b>y", "|xy||||"},
		"UTF-8":               {"grün — ok", "|grün — ok||||"},
		"UTF-8 in pieces":     {"gr\xc3\xbcn", "|grün||||"},
		"not UTF-8":           {"a\xffb\xc3\x28c", "|a\uFFFDb\uFFFD(c||||"},
		"wide":                {"漢字x\x1b[1;2HY", "| Y字x||||"},
		"wide at the edge":    {"123456789漢", "|123456789|漢|||"},
		"combining":           {"e\u0301x", "|ex||||"},
		"reorders nothing":    {"a\u202eb", "|ab||||"},
		"C1 in UTF-8":         {"a\u009b2Jb", "|a2Jb||||"},
		"cancelled":           {"\x1b[2\x18Jx", "|Jx||||"},
		"too many parameters": {"\x1b[" + strings.Repeat("1;", 50) + "Hx", "|x||||"},
		"large parameters":    {"\x1b[99999999999999999999;1Hx", "||||x|"},
		"control in sequence": {"a\x1b[\r1Cb", "|ab||||"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := screen(test.output); got != test.want {
				t.Errorf("%q shows\n%s, want\n%s", test.output, got, test.want)
			}
			if got := func() string {
				s := terminal.New(10, 4)
				for _, b := range []byte(test.output) {
					_, _ = s.Write([]byte{b})
				}
				return "|" + strings.Join(s.Lines(), "|") + "|"
			}(); got != test.want {
				t.Errorf("%q byte by byte shows\n%s", test.output, got)
			}
		})
	}
}

func TestResize(t *testing.T) {
	s := terminal.New(10, 4)
	_, _ = s.Write([]byte("1234567漢\r\n2\r\n3\r\n4"))
	s.Resize(8, 2)
	if got := strings.Join(s.Lines(), "|"); got != "3|4" {
		t.Errorf("smaller: %s", got)
	}
	_, _ = s.Write([]byte("x"))
	s.Resize(20, 3)
	if got := strings.Join(s.Lines(), "|"); got != "3|4x|" {
		t.Errorf("larger: %s", got)
	}
	s.Resize(1<<31, 1<<31)
	if lines := s.Lines(); len(lines) != terminal.MaxRows {
		t.Errorf("%d lines", len(lines))
	}
	s.Resize(0, 0)
	if lines := s.Lines(); len(lines) != 24 {
		t.Errorf("%d lines", len(lines))
	}
}

// Whatever the output is, the screen keeps its size and has only what prints.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("\x1b[2;3r\x1b[3;1H\n\x1bM漢\x1b[@\x1b[P\x1b[?1049h\x1b[L\x1b[M"), uint32(10), uint32(4))
	f.Add([]byte("漢字\x1b[1;2H\x1b[1X\x1b[D\x1b[3@"), uint32(3), uint32(1))
	f.Add([]byte("\x1b]0;\x1b\x1b\\\xc3\x1b[1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1H"), uint32(1), uint32(1))
	f.Fuzz(func(t *testing.T, output []byte, columns, rows uint32) {
		s := terminal.New(columns, rows)
		for i, half := range [][]byte{output[:len(output)/2], output[len(output)/2:]} {
			_, _ = s.Write(half)
			lines := s.Lines()
			if len(lines) == 0 || len(lines) > terminal.MaxRows {
				t.Fatalf("%d lines", len(lines))
			}
			for _, l := range lines {
				if !utf8.ValidString(l) || utf8.RuneCountInString(l) > terminal.MaxColumns {
					t.Fatalf("%q", l)
				}
				for _, r := range l {
					if !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) {
						t.Fatalf("%q is shown", r)
					}
				}
			}
			if row, column := s.Cursor(); row < 0 || row >= len(lines) || column < 0 || column >= terminal.MaxColumns {
				t.Fatalf("the cursor is at %d, %d", row, column)
			}
			if i == 0 {
				s.Resize(rows, columns)
			}
		}
	})
}
