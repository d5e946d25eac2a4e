package dashboard_test

import (
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func TestStrength_TellsWhatIsGuessable(t *testing.T) {
	for pw, why := range map[string]string{
		"password1234":                           "commonest",
		"P@ssw0rd2024!":                          "commonest",
		"administrator":                          "commonest",
		"clawpatrol123":                          "commonest",
		"passwordpassword":                       "",
		"correcthorsebatterystaple":              "commonest",
		"123456789012":                           "",
		"abcdefghijklmnop":                       "alphabet",
		"qwertyuiopasdfghjkl":                    "",
		"zyxwvutsrqponm":                         "alphabet",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "repeats",
		"xk7xk7xk7xk7xk7xk7":                     "repeats",
		"summer 2024 !!":                         "commonest",
		"918273645546":                           "",
	} {
		if weak, said := dashboard.Strength(pw); !weak || !strings.Contains(said, why) || strings.Contains(said, pw) {
			t.Errorf("%q: weak %v, %q; want it to say %q", pw, weak, said, why)
		}
	}
	for _, pw := range []string{
		password, "aiNg4oox-Ieph7quoh", "k3J$x9!pQz2@wLm", "quarry violin bishop teapot", "qzxwvkpjtmrbhd", "пароль который длинный",
		"f3a9c1d27e5b804466aa", "x7Qp!vK2mZ&4cW9b",
	} {
		if weak, said := dashboard.Strength(pw); weak {
			t.Errorf("%q: %q", pw, said)
		}
	}
}

// It is asked by anyone, before the gate.
func FuzzStrength(f *testing.F) {
	f.Add("password1234")
	f.Add(strings.Repeat("a1", 36))
	f.Add("ſſſſſſſſſſſſİİ")
	f.Fuzz(func(t *testing.T, pw string) {
		if dashboard.CheckPassword(pw) != nil {
			return
		}
		if _, said := dashboard.Strength(pw); said == "" {
			t.Error("it says nothing")
		}
	})
}
