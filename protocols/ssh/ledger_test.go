package ssh_test

import (
	"bytes"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
)

// I16: what the library keeps for data that nobody reads is bounded also where it
// comes one byte at a time, and no stream that waits for its reader is taken for
// that because others are busy.
func TestI16_TinyPiecesThatNobodyReadsEndTheConnection(t *testing.T) {
	const packet, head = 32 << 10, 49
	for name, tc := range map[string]struct {
		attack bool
		step   func(l *ssh.Ledger)
		steps  int
	}{
		"one byte a packet": {true, func(l *ssh.Ledger) { l.Received(36) }, 2 << 20},
		"one byte a packet, and another stream is read of": {true, func(l *ssh.Ledger) {
			l.Received(36 + packet + head)
			l.Read(packet)
		}, 2 << 20},
		"full windows": {false, func(l *ssh.Ledger) { l.Received(packet + head) }, 64},
		"one full window, and 10 GiB through another": {false, func(l *ssh.Ledger) {
			l.Received(packet + head)
			l.Read(packet)
		}, 10 << 30 / packet},
		"one full window, and a million keys typed": {false, func(l *ssh.Ledger) {
			l.Received(36)
			l.Read(1)
		}, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			over := 0
			l := ssh.NewLedger(func() { over++ })
			if !tc.attack {
				l.Received(2<<20 + 64*head)
			}
			for range tc.steps {
				tc.step(l)
			}
			if (over > 0) != tc.attack {
				t.Errorf("over %d times", over)
			}
		})
	}
}

// What is read of is empty, whatever came meanwhile.
func TestLedger_AStreamThatIsReadOfCountsNothing(t *testing.T) {
	over := 0
	l := ssh.NewLedger(func() { over++ })
	l.Idle(bytes.NewReader(nil))
	for range 1 << 20 {
		l.Received(256)
		l.Read(10)
	}
	l.Leave()
	for range 1 << 20 {
		l.Received(256)
	}
	if over > 0 {
		t.Errorf("over %d times", over)
	}
}
