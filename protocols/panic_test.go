package protocols_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols"
)

func TestI02_APanicShowsNothingOfWhatWasCarried(t *testing.T) {
	for _, value := range []any{"the secret", errors.New("the secret"), struct{ s string }{"the secret"}} {
		if text := protocols.PanicText(value); text == "" || strings.Contains(text, "secret") {
			t.Errorf("%T: %q", value, text)
		}
	}
	defer func() {
		if text := protocols.PanicText(recover()); !strings.Contains(text, "out of range") {
			t.Errorf("of the runtime: %q", text)
		}
	}()
	var none []int
	_ = none[len(none)]
}
