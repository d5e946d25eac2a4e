package registry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/registry"
)

// reader opens the database file beside the registry, read-only.
func reader(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func appendRow(t testing.TB, db *registry.DB, row registry.Action) int64 {
	t.Helper()
	id, err := db.Append(t.Context(), row)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func flush(t testing.TB, db *registry.DB) {
	t.Helper()
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func actions(t testing.TB, db *registry.DB, f registry.ActionFilter) []registry.LoggedAction {
	t.Helper()
	list, err := db.Actions(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestActions_RoundTrip(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	want := registry.Action{
		Time: c.Now().Add(-time.Second), Registration: "r_x", Profile: "ci", Endpoint: "https.github", Credential: "bearer.github",
		Protocol: "https", Summary: "GET api.github.com/user", Verdict: "allow", Rule: "reads", Reason: "it only reads",
	}
	want.ID = appendRow(t, db, want)
	running := appendRow(t, db, registry.Action{Verdict: "deny"})
	result := registry.ActionResult{Status: "200", BytesIn: 12, BytesOut: 1 << 40, Duration: 1234567 * time.Nanosecond}
	db.Finish(want.ID, result)
	db.Finish(want.ID, registry.ActionResult{Status: "the first stands"})
	db.Finish(0, result)
	db.Finish(running+1, result)
	flush(t, db)
	list := actions(t, db, registry.ActionFilter{})
	if len(list) != 2 || list[0].ID != running || list[1].ID != want.ID {
		t.Fatalf("%+v", list)
	}
	if list[0].Result != nil || list[0].Time != c.Now() {
		t.Errorf("the running one: %+v", list[0])
	}
	if list[1].Action != want || list[1].Result == nil || *list[1].Result != result {
		t.Errorf("%+v %+v", list[1].Action, list[1].Result)
	}
}

func TestActions_Filter(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	start := c.Now()
	for n := range 600 {
		row := registry.Action{Registration: "r_a", Endpoint: "https.one", Verdict: "allow"}
		if n%2 == 1 {
			row.Registration = "r_b"
		}
		if n%3 == 0 {
			row.Endpoint = "https.two"
		}
		if n%10 == 0 {
			row.Verdict = "deny"
		}
		appendRow(t, db, row)
		c.pass(time.Second)
	}
	flush(t, db)
	for name, test := range map[string]struct {
		f           registry.ActionFilter
		n           int
		first, last int64
	}{
		"default":      {registry.ActionFilter{}, 100, 600, 501},
		"two fields":   {registry.ActionFilter{Registration: "r_b", Endpoint: "https.two", After: 300, Before: 500}, 33, 496, 304},
		"most":         {registry.ActionFilter{Limit: 500}, 500, 600, 101},
		"cursor":       {registry.ActionFilter{Before: 101, Limit: 500}, 100, 100, 1},
		"after":        {registry.ActionFilter{After: 590}, 10, 600, 591},
		"between":      {registry.ActionFilter{After: 590, Before: 593}, 2, 592, 591},
		"registration": {registry.ActionFilter{Registration: "r_a", Limit: 500}, 300, 599, 1},
		"endpoint":     {registry.ActionFilter{Endpoint: "https.two", Limit: 500}, 200, 598, 1},
		"deny":         {registry.ActionFilter{Verdict: "deny", Limit: 500}, 60, 591, 1},
		"allow":        {registry.ActionFilter{Verdict: "allow", Limit: 1}, 1, 600, 600},
		"since":        {registry.ActionFilter{Since: start.Add(590 * time.Second)}, 10, 600, 591},
		"all of them":  {registry.ActionFilter{Registration: "r_a", Endpoint: "https.two", Verdict: "deny", Since: start.Add(time.Second), Before: 600}, 19, 571, 31},
		"nothing":      {registry.ActionFilter{Registration: "r_'; DROP TABLE actions; --"}, 0, 0, 0},
	} {
		list := actions(t, db, test.f)
		if len(list) != test.n || test.n > 0 && (list[0].ID != test.first || list[len(list)-1].ID != test.last) {
			t.Errorf("%s: %d rows", name, len(list))
			if len(list) > 0 {
				t.Errorf("%s: from %d to %d", name, list[0].ID, list[len(list)-1].ID)
			}
		}
	}
	for _, f := range []registry.ActionFilter{{Limit: -1}, {Limit: 501}, {Before: -1}, {After: -1}, {Text: strings.Repeat("x", 65)}} {
		if _, err := db.Actions(t.Context(), f); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestActions_FilterByRuleCredentialTextAndTime(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	start := c.Now()
	var last int64
	for _, row := range []registry.Action{
		{Verdict: "deny", Rule: "no-writes", Credential: "bearer.github", Summary: `DELETE /100%_\done`, Reason: "Read Only"},
		{Verdict: "allow", Rule: "no-writes", Credential: "bearer.gitlab", Summary: "GET /100 done", Reason: "zzzZzzz"},
		{Verdict: "allow", Credential: "bearer.github", Summary: "GET /größe"},
		{Verdict: "allow", Credential: "bearer.github", Summary: "GET /running/ABABABABab%"},
	} {
		last = appendRow(t, db, row)
		if row.Summary != "GET /running/ABABABABab%" {
			db.Finish(last, registry.ActionResult{Status: fmt.Sprintf("502 Dns%d --------", last)})
		}
		c.pass(time.Minute)
	}
	flush(t, db)
	for name, test := range map[string]struct {
		f    registry.ActionFilter
		want []int64
	}{
		"rule":                    {registry.ActionFilter{Rule: "no-writes"}, []int64{2, 1}},
		"rule and credential":     {registry.ActionFilter{Rule: "no-writes", Credential: "bearer.github"}, []int64{1}},
		"denied by rule":          {registry.ActionFilter{Rule: "no-writes", Verdict: "deny"}, []int64{1}},
		"credential":              {registry.ActionFilter{Credential: "bearer.github"}, []int64{4, 3, 1}},
		"part of a credential":    {registry.ActionFilter{Credential: "bearer"}, nil},
		"text of summary":         {registry.ActionFilter{Text: "get /"}, []int64{4, 3, 2}},
		"text of reason":          {registry.ActionFilter{Text: "read only"}, []int64{1}},
		"text of status":          {registry.ActionFilter{Text: "dns2"}, []int64{2}},
		"signs are no wildcards":  {registry.ActionFilter{Text: "0%_"}, []int64{1}},
		"nor is an underscore":    {registry.ActionFilter{Text: "_"}, []int64{1}},
		"nor a backslash":         {registry.ActionFilter{Text: `\`}, []int64{1}},
		"a text in itself":        {registry.ActionFilter{Text: "aBaBaBaB%"}, []int64{4}},
		"in a reason":             {registry.ActionFilter{Text: "ZZZZZZZ"}, []int64{2}},
		"in a status":             {registry.ActionFilter{Text: "--------"}, []int64{3, 2, 1}},
		"nearly":                  {registry.ActionFilter{Text: "ZZZZZZZZ"}, nil},
		"beyond ASCII":            {registry.ActionFilter{Text: "größe"}, []int64{3}},
		"until is exclusive":      {registry.ActionFilter{Until: start.Add(2 * time.Minute)}, []int64{2, 1}},
		"since is inclusive":      {registry.ActionFilter{Since: start.Add(2 * time.Minute)}, []int64{4, 3}},
		"between":                 {registry.ActionFilter{Since: start.Add(time.Minute), Until: start.Add(3 * time.Minute)}, []int64{3, 2}},
		"between, with the other": {registry.ActionFilter{Since: start.Add(3 * time.Minute), Until: start}, nil},
	} {
		var got []int64
		for _, a := range actions(t, db, test.f) {
			got = append(got, a.ID)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	// The result of one that had been written while it ran is found as well.
	db.Finish(last, registry.ActionResult{Status: "late"})
	flush(t, db)
	if list := actions(t, db, registry.ActionFilter{Text: "LATE"}); len(list) != 1 || list[0].ID != last {
		t.Errorf("a late result: %+v", list)
	}
	if a, err := db.Action(t.Context(), last); err != nil || a.Summary != "GET /running/ABABABABab%" || a.Result == nil || a.Result.Status != "late" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, id := range []int64{0, -1, last + 1} {
		if _, err := db.Action(t.Context(), id); !errors.Is(err, registry.ErrNoAction) {
			t.Errorf("action %d: %v", id, err)
		}
	}
}

// A clock that is set back makes times fall with rising IDs.
func TestActions_SinceGoesByTheTimeOfEachRow(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	for _, minutes := range []time.Duration{2, 0, 1} {
		appendRow(t, db, registry.Action{Verdict: "allow", Time: c.Now().Add(minutes * time.Minute)})
	}
	flush(t, db)
	list := actions(t, db, registry.ActionFilter{Since: c.Now().Add(time.Minute)})
	if len(list) != 2 || list[0].ID != 3 || list[1].ID != 1 {
		t.Errorf("%+v", list)
	}
	list = actions(t, db, registry.ActionFilter{Until: c.Now().Add(time.Minute)})
	if len(list) != 1 || list[0].ID != 2 {
		t.Errorf("until: %+v", list)
	}
	list = actions(t, db, registry.ActionFilter{Until: c.Now().Add(2 * time.Minute)})
	if len(list) != 2 || list[0].ID != 3 || list[1].ID != 2 {
		t.Errorf("until the first row's time: %+v", list)
	}
}

func TestActions_TextIsBoundedAndSafe(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	long := strings.Repeat("é", 1000)
	appendRow(t, db, registry.Action{
		Registration: registry.ID(long), Profile: long, Endpoint: long, Credential: long, Protocol: long,
		Summary: "GET /\x1b[2J\r\n\xff\u202e" + long, Verdict: "allow", Rule: long, Reason: long,
	})
	flush(t, db)
	a := actions(t, db, registry.ActionFilter{})[0]
	for name, field := range map[string]struct {
		text string
		max  int
	}{
		"registration": {string(a.Registration), 256}, "profile": {a.Profile, 256}, "endpoint": {a.Endpoint, 256}, "credential": {a.Credential, 256},
		"protocol": {a.Protocol, 256}, "rule": {a.Rule, 256}, "summary": {a.Summary, 512}, "reason": {a.Reason, 512},
	} {
		if len(field.text) > field.max || len(field.text) < field.max-3 || !utf8.ValidString(field.text) {
			t.Errorf("%s has %d bytes", name, len(field.text))
		}
		if strings.ContainsAny(field.text, "\x1b\r\n\u202e") {
			t.Errorf("%s: %q", name, field.text)
		}
	}
	for _, verdict := range []string{"", "approve", "ALLOW"} {
		if _, err := db.Append(t.Context(), registry.Action{Verdict: verdict}); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("verdict %q: %v", verdict, err)
		}
	}
}

func TestActions_IDsContinueAfterRestart(t *testing.T) {
	dir := stateDir(t)
	var last int64
	for range 3 {
		db, err := registry.Open(t.Context(), config(dir, nil))
		if err != nil {
			t.Fatal(err)
		}
		for range 300 { // more than one batch; nobody calls Sync
			id := appendRow(t, db, registry.Action{Verdict: "allow"})
			if id != last+1 {
				t.Fatalf("ID %d after %d", id, last)
			}
			last = id
			db.Finish(id, registry.ActionResult{Status: "200"})
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := queryInt(t, dir, "SELECT count(*) FROM actions"); n != 900 {
		t.Errorf("%d rows: Close did not flush", n)
	}
	if n := queryInt(t, dir, "SELECT count(status) FROM (SELECT status FROM actions UNION ALL SELECT status FROM action_results)"); n != 900 {
		t.Errorf("%d results: Close did not flush", n)
	}
}

func TestActions_AreAppendOnly(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	id := appendRow(t, db, registry.Action{Verdict: "allow"})
	flush(t, db)
	db.Finish(id, registry.ActionResult{Status: "200"})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", "file:"+dir+"/clawpatrol.db")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, statement := range []string{"UPDATE actions SET verdict = 'deny'", "DELETE FROM actions", "UPDATE action_results SET status = 'x'", "DELETE FROM action_results",
		"UPDATE action_log_start SET first = 0", "UPDATE action_log_start SET removed = -1", "DELETE FROM action_log_start"} {
		if _, err := raw.Exec(statement); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func TestActions_ManyProducersInOrder(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	setCredential(t, db, "bearer.github", "secret", "sesame")
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			for i := range 50 {
				row := actionRow(r.ID)
				row.Summary = fmt.Sprint(n, " ", i)
				rel, err := db.Release(t.Context(), row)
				if err != nil {
					t.Error(err)
					return
				}
				db.Finish(rel.Action, registry.ActionResult{Status: row.Summary})
				if err := db.Sync(t.Context()); err != nil {
					t.Error(err)
				}
				got := actions(t, db, registry.ActionFilter{Before: rel.Action + 1, Limit: 1})
				if len(got) != 1 || got[0].ID != rel.Action || got[0].Summary != row.Summary || got[0].Result == nil || got[0].Result.Status != row.Summary {
					t.Errorf("row %d is not on disk after Sync: %+v", rel.Action, got)
				}
			}
		})
	}
	wg.Wait()
	if h := db.LogHealth(); h.Queued != 0 || h.Err != nil || h.DroppedResults != 0 {
		t.Errorf("%+v", h)
	}
}

func TestSync_EndsWithItsContext(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	flush(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	appendRow(t, db, registry.Action{Verdict: "allow"})
	if err := db.Sync(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
