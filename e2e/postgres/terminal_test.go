package postgres

import (
	"io"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// patience is how long something may take that takes no time on a quiet machine.
const patience = 20 * time.Second

// terminal is a line that the agent's user runs at a terminal, by script(1).
type terminal struct {
	t    *testing.T
	out  *lab.Output
	keys io.WriteCloser
	done chan struct{}
}

func newTerminal(t *testing.T, line string) *terminal {
	t.Helper()
	cmd := asAgent(t.Context(), w.agent.Host, "exec script -qec "+lab.Quote(line)+" /dev/null")
	term := &terminal{t: t, out: new(lab.Output), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = term.out, term.out
	var err error
	term.keys, err = cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	go func() {
		defer close(term.done)
		_ = cmd.Wait() // what it printed is what counts
	}()
	t.Cleanup(func() { _ = cmd.Cancel() })
	return term
}

func (term *terminal) wait(pattern string) {
	term.t.Helper()
	_, err := term.out.Wait(term.t.Context(), patience, pattern)
	must(term.t, err)
	term.out.Mark()
}

func (term *terminal) press(keys string) {
	term.t.Helper()
	_, err := io.WriteString(term.keys, keys)
	must(term.t, err)
}

func (term *terminal) end() {
	term.t.Helper()
	select {
	case <-term.done:
	case <-time.After(patience):
		term.t.Fatalf("it does not end:\n%s", term.out)
	}
}
