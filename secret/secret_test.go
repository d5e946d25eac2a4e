package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/secret"
)

const value = "hunter2-the-value"

// holder is how secrets travel: in somebody else's struct, exported and not.
type holder struct {
	Exported secret.Secret
	hidden   secret.Secret
	list     []secret.Secret
	byName   map[string]secret.Secret
}

func TestI02_ASecretDoesNotPrint(t *testing.T) {
	s := secret.New([]byte(value))
	h := holder{s, s, []secret.Secret{s}, map[string]secret.Secret{"x": s}}
	var out strings.Builder
	for _, v := range []any{s, &s, h, &h, []any{h}, fmt.Errorf("failed with %v: %w", s, errors.New("cause"))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T"} {
			fmt.Fprintf(&out, verb, v)
		}
	}
	b, err := json.Marshal(map[string]any{"s": s, "h": h})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(handler).Info("message", "secret", s, "holder", h, "group", slog.GroupValue(slog.Any("inner", s)))
	}
	out.Write(log.Bytes())
	for _, leak := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), fmt.Sprintf("%d", []byte(value))} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("the secret is in the output, as %q", leak)
		}
	}
	if !strings.Contains(out.String(), "[secret]") {
		t.Error("nothing says that there was a secret: the search proves nothing")
	}
}

func TestSecret_ZeroAndEmptyDiffer(t *testing.T) {
	var zero secret.Secret
	empty := secret.New(nil)
	if !zero.IsZero() || zero.Reveal() != nil || empty.IsZero() || zero.Equal(empty) || !zero.Equal(secret.Secret{}) {
		t.Error("an absent secret and a present but empty one are the same")
	}
}

func TestSecret_KeepsACopy(t *testing.T) {
	b := []byte(value)
	s := secret.New(b)
	clear(b)
	if string(s.Reveal()) != value || !s.Equal(secret.New([]byte(value))) || s.Equal(secret.New([]byte("other"))) {
		t.Error("the secret changed with what it was made from")
	}
}
