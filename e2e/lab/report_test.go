package lab

import (
	"strings"
	"testing"
)

func TestReport_FailuresAreReadFromWhatTestingPrints(t *testing.T) {
	for name, c := range map[string]struct{ out, want string }{
		"nothing failed": {"=== RUN   TestA\n    a_test.go:1: said\n--- PASS: TestA (0.00s)\nPASS\n", ""},
		"plain": {
			"--- FAIL: TestA (1.00s)\n    a_test.go:1: reason\n        more of it\n    --- FAIL: TestA/sub (0.50s)\n        a_test.go:2: of the part\nloose\n--- FAIL: TestB (0.00s)\n    b_test.go:1: b\nFAIL\n",
			"--- FAIL: TestA (1.00s)\n    a_test.go:1: reason\n        more of it\n    --- FAIL: TestA/sub (0.50s)\n        a_test.go:2: of the part\n--- FAIL: TestB (0.00s)\n    b_test.go:1: b\n",
		},
		"verbose": {
			"=== RUN   TestA\n    a_test.go:1: good\n--- PASS: TestA (0.00s)\n=== RUN   TestB\n    b_test.go:1: reason\n--- FAIL: TestB (0.00s)\n=== RUN   TestC\n--- PASS: TestC (0.00s)\n",
			"    b_test.go:1: reason\n--- FAIL: TestB (0.00s)\n",
		},
		"verbose, with parts and beside each other": {
			"=== RUN   TestA\n    a_test.go:1: of the whole\n=== RUN   TestA/sub\n    a_test.go:2: of the part\n=== RUN   TestA/good\n    a_test.go:3: good\n" +
				"=== NAME  TestC\n    c_test.go:1: c\n=== NAME  TestA/sub\n    a_test.go:4: more\n--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/sub (0.00s)\n    --- PASS: TestA/good (0.00s)\n--- FAIL: TestC (0.00s)\n",
			"    a_test.go:1: of the whole\n--- FAIL: TestA (0.00s)\n    a_test.go:2: of the part\n    a_test.go:4: more\n    --- FAIL: TestA/sub (0.00s)\n    c_test.go:1: c\n--- FAIL: TestC (0.00s)\n",
		},
		"go test -json": {
			"\x16=== RUN   TestB\n    b_test.go:1: reason\n\x16--- FAIL: TestB (0.00s)\n\x16=== NAME  \n",
			"    b_test.go:1: reason\n--- FAIL: TestB (0.00s)\n",
		},
		"long": {
			"--- FAIL: TestA (0.00s)\n    " + strings.Repeat("x", 500) + "\n" + strings.Repeat("    y\n", 50) + "--- FAIL: TestB (0.00s)\n    z\n",
			"--- FAIL: TestA (0.00s)\n    " + strings.Repeat("x", 396) + "…\n" + strings.Repeat("    y\n", 11) + "--- FAIL: TestB (0.00s)\n    z\n",
		},
	} {
		if got := strings.Join(readFailures(strings.NewReader(c.out)), ""); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, c.want)
		}
	}
}

func TestOutput_TailLeavesDebugLinesOut(t *testing.T) {
	var o Output
	for _, line := range []string{"level=INFO msg=one\n", "level=INFO msg=two\n", "level=DEBUG msg=three\n", "level=WARN msg=four\n", "panic: five"} {
		if _, err := o.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := o.Tail(3), "level=INFO msg=two\nlevel=WARN msg=four\npanic: five\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
