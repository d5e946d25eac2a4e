package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// maxShownDetail is what the registry keeps of a detail, so that nothing of what
// is decided on is left out, in characters.
const maxShownDetail = 8 << 10

// approvalCard is an approval on a page, with everything needed to decide: all
// text made safe to look at.
type approvalCard struct {
	ID, Title, Summary           string
	Registration, Name, Profiles string
	Endpoint, Rule, RuleReason   string
	HostKey                      *hostKeyRow
	Fields                       []cardField
	Raw                          string // the detail of any other kind
	State, Outcome               string
	Since                        string // roughly
	CreatedAt, ExpiresAt         time.Time
	Pending, Changed, Grantable  bool
	Grant                        *grantRow
	Typed, Problem, Hint, Done   string // on a page that answers what was sent
}

// cardField is one thing that a detail says.
type cardField struct{ Label, Value string }

// hostKeyRow is what operators compare before they accept a host key.
type hostKeyRow struct {
	Host, KeyType, Fingerprint string
	Port                       uint16
	Known                      []string
}

func (d *dashboard) approvalCard(h registry.Held) approvalCard {
	c := approvalCard{
		ID: string(h.ID), Title: shown(h.Summary), Summary: shown(h.Summary), Registration: string(h.Registration), Name: string(h.Registration),
		Endpoint: shown(h.Endpoint), Rule: shown(h.Rule), State: string(h.State), Outcome: outcome(h),
		Since: ago(d.Now(), &h.CreatedAt), CreatedAt: h.CreatedAt, ExpiresAt: h.ExpiresAt,
		Pending: h.State == registry.ApprovalPending, Grantable: h.Kind == registry.ApproveAction && h.Rule != "",
	}
	if reg, ok := d.Registry.Snapshot().ByID(h.Registration); ok {
		c.Name, c.Profiles = shown(reg.Name), shown(strings.Join(reg.Profiles, ", "))
	}
	if h.Kind == registry.ApproveHostKey {
		c.hostKey(h.Detail)
	} else {
		c.action(h.Detail)
	}
	return c
}

// hostKey lays out the detail of a host key.
func (c *approvalCard) hostKey(raw []byte) {
	var detail registry.HostKeyDetail
	if !knownDetail(raw, &detail) || detail.Fingerprint == "" {
		c.Raw = shownUpTo(string(raw), maxShownDetail)
		return
	}
	c.HostKey = &hostKeyRow{Host: shown(detail.Host), KeyType: shown(detail.KeyType), Fingerprint: shown(detail.Fingerprint), Port: detail.Port}
	for _, k := range detail.Known {
		c.HostKey.Known = append(c.HostKey.Known, shown(k))
	}
	c.Changed = len(detail.Known) > 0
	c.Title = "Is this the host key of " + c.HostKey.Host + "?"
	if c.Changed {
		c.Title = "The host key of " + c.HostKey.Host + " has changed"
	}
}

// action lays out the detail of an action by its protocol.
func (c *approvalCard) action(raw []byte) {
	var detail registry.ActionDetail
	if !knownDetail(raw, &detail) || detail.HTTP == nil && detail.SSH == nil && detail.SQL == nil {
		c.Raw = shownUpTo(string(raw), maxShownDetail)
		return
	}
	c.RuleReason = shownUpTo(detail.RuleReason, maxShownDetail)
	add := func(label string, values ...string) {
		if text := strings.Join(values, ", "); text != "" {
			c.Fields = append(c.Fields, cardField{label, shownUpTo(text, maxShownDetail)})
		}
	}
	if r := detail.HTTP; r != nil {
		add("Method", r.Method)
		add("Host", r.Host)
		add("Path", r.Path)
		add("Parameters, by name", r.Parameters...)
		add("Content type", r.ContentType)
		switch {
		case r.BodyBytes > 0:
			add("Body", strconv.FormatInt(r.BodyBytes, 10)+" bytes")
		case r.BodyBytes < 0:
			add("Body", "of unknown length")
		}
	}
	if r := detail.SSH; r != nil {
		add("Action", r.Action)
		add("Login", r.User)
		add("Host", r.Host)
		add("Command", r.Command)
		add("Subsystem", r.Subsystem)
		add("Path", r.Path)
		add("Forwards to", r.Forward)
	}
	if r := detail.SQL; r != nil {
		add("Statement", r.Statement)
		add("Verbs", r.Verbs...)
		add("Tables", r.Tables...)
		add("Functions", r.Functions...)
		add("Database", r.Database)
		add("Database user", r.User)
	}
}

// knownDetail reports whether raw is a JSON object with no other fields than v's, and
// decodes it: what a page has no line for must not be left out.
func knownDetail(raw []byte, v any) bool {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if dec.Decode(v) != nil {
		return false
	}
	_, err := dec.Token()
	return errors.Is(err, io.EOF)
}
