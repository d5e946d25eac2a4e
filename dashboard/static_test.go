package dashboard_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"
)

// What is vendored is what was published: whoever updates it compares anew.
func TestStatic_VendoredScriptsAreTheReleases(t *testing.T) {
	for name, want := range map[string]string{
		"htmx.min.js":     "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
		"htmx-sse.min.js": "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
	} {
		body, err := os.ReadFile("static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%s has SHA-256 %s, want %s", name, got, want)
		}
	}
}
