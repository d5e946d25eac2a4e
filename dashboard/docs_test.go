package dashboard_test

import (
	"os"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func TestDocs_EveryRouteOfTheAPIIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	gated, public := dashboard.Routes(newGateway(t).handler)
	n := 0
	for _, route := range append(gated, public...) {
		if _, path, _ := strings.Cut(route, " "); !strings.HasPrefix(path, "/api/") {
			continue
		}
		n++
		if !strings.Contains(string(doc), "`"+route+"`") {
			t.Errorf("docs/api.md does not have `%s`", route)
		}
	}
	if n < 15 {
		t.Errorf("only %d routes", n)
	}
}
