package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/registry"
)

// approvalView is what the API shows of something held for an operator.
type approvalView struct {
	ID               string          `json:"id"`
	Registration     string          `json:"registration"`
	RegistrationName string          `json:"registration_name"` // empty: it is gone
	Endpoint         string          `json:"endpoint"`
	Kind             string          `json:"kind"` // "host_key" or "action"
	Rule             string          `json:"rule"` // that held an action; empty: none
	Summary          string          `json:"summary"`
	Detail           json.RawMessage `json:"detail"`
	State            string          `json:"state"`
	Reason           string          `json:"reason"`   // the operator's
	Operator         string          `json:"operator"` // who decided
	CreatedAt        time.Time       `json:"created_at"`
	ExpiresAt        time.Time       `json:"expires_at"`
	DecidedAt        *time.Time      `json:"decided_at"`      // when it ended; null: it has not
	Grant            *grantView      `json:"grant,omitempty"` // of a single one: what it was answered with beyond the one action
}

func (d *dashboard) approvalView(h registry.Held) approvalView {
	v := approvalView{
		ID: string(h.ID), Registration: string(h.Registration), Endpoint: h.Endpoint, Kind: string(h.Kind), Rule: h.Rule,
		Summary: h.Summary, Detail: h.Detail, State: string(h.State), Reason: h.Reason, Operator: h.Operator,
		CreatedAt: h.CreatedAt.UTC(), ExpiresAt: h.ExpiresAt.UTC(), DecidedAt: optionalTime(h.DecidedAt),
	}
	if reg, ok := d.Registry.Snapshot().ByID(h.Registration); ok {
		v.RegistrationName = reg.Name
	}
	return v
}

// hostKeyView is a host key that an operator accepted.
type hostKeyView struct {
	Endpoint    string    `json:"endpoint"`
	Host        string    `json:"host"`
	Port        uint16    `json:"port"`
	KeyType     string    `json:"key_type"`
	Fingerprint string    `json:"fingerprint"` // as OpenSSH prints it
	Approval    string    `json:"approval"`
	AcceptedAt  time.Time `json:"accepted_at"`
}

func newHostKeyView(k registry.HostKey) hostKeyView {
	v := hostKeyView{Endpoint: k.Endpoint, Host: k.Host, Port: k.Port, Approval: string(k.Approval), AcceptedAt: k.AcceptedAt.UTC()}
	if key, err := ssh.ParsePublicKey(k.Key); err == nil {
		v.KeyType, v.Fingerprint = key.Type(), ssh.FingerprintSHA256(key)
	}
	return v
}

// The decisions that an operator can send.
const (
	decideAllow = "allow"
	decideDeny  = "deny"
)

// decision is what an operator sends. For and Uses go with an allow of an action
// that a rule held, and grant what the rule holds from then on.
type decision struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason"` // for the agent; may be empty
	For      string `json:"for"`    // a duration such as "15m"; empty: 24 hours where uses are given, else nothing is granted
	Uses     int    `json:"uses"`   // 0: any number, where For is given
}

// terms are what v grants; nil: nothing.
func (v decision) terms() (*registry.GrantTerms, error) {
	if v.For == "" && v.Uses == 0 {
		return nil, nil
	}
	bad := &failure{http.StatusUnprocessableEntity, "bad_grant",
		fmt.Sprintf("what is allowed beyond this is for 1 minute to 24 hours, and 1 to %d times", registry.MaxGrantUses), `"for":"15m", "uses":10, or both, with "decision":"allow"`}
	terms := registry.GrantTerms{Uses: v.Uses}
	if v.For != "" {
		d, err := time.ParseDuration(v.For)
		if err != nil || d < registry.MinGrant || d > registry.MaxGrant {
			return nil, bad
		}
		terms.For = d
	}
	if v.Decision != decideAllow || v.Uses < 0 || v.Uses > registry.MaxGrantUses {
		return nil, bad
	}
	return &terms, nil
}

// decide answers what {id} in r's path names.
func (d *dashboard) decide(r *http.Request, v decision) error {
	if v.Decision != decideAllow && v.Decision != decideDeny {
		return &failure{http.StatusUnprocessableEntity, "bad_decision", `the decision is neither "allow" nor "deny"`, ""}
	}
	reason, err := givenReason(v.Reason)
	if err != nil {
		return err
	}
	terms, err := v.terms()
	if err != nil {
		return err
	}
	id, ctx, operator := registry.ApprovalID(r.PathValue("id")), context.WithoutCancel(r.Context()), "dashboard "+source(r).String()
	if terms == nil {
		err = d.Registry.Decide(ctx, id, v.Decision == decideAllow, reason, operator)
	} else {
		err = d.Registry.DecideFor(ctx, id, reason, operator, *terms)
	}
	over, isOver := errors.AsType[*registry.OverError](err)
	switch {
	case isOver:
		return &failure{http.StatusConflict, "wrong_state", outcome(over.Held), "your answer changed nothing"}
	case errors.Is(err, registry.ErrTooManyGrants):
		return &failure{http.StatusConflict, "too_many_grants", "too many grants are in force", "take some back, or allow just this"}
	case errors.Is(err, registry.ErrInvalid) && terms != nil:
		return &failure{http.StatusUnprocessableEntity, "bad_grant", "no rule holds this: it can be allowed only by itself", ""}
	case err != nil:
		return fmt.Errorf("deciding an approval: %w", err)
	}
	d.Log.Info("approval decided", "approval", id, "decision", v.Decision, "for", v.For, "uses", v.Uses, "operator", source(r))
	return nil
}

// outcome says in a clause what has become of h, safe to look at.
func outcome(h registry.Held) string {
	by := func(did string) string {
		text := did
		if h.Operator != "" {
			text += " by " + shown(h.Operator)
		}
		text += " at " + at(h.DecidedAt)
		if h.Reason != "" {
			text += ": " + shown(h.Reason)
		}
		return text
	}
	switch h.State {
	case registry.ApprovalPending:
		return "it waits for an operator"
	case registry.ApprovalAllowed:
		return by("it was allowed")
	case registry.ApprovalDenied:
		return by("it was denied")
	case registry.ApprovalExpired:
		return "it expired at " + at(h.DecidedAt) + ": no operator decided in time, and it was refused"
	case registry.ApprovalWithdrawn:
		return "it was withdrawn at " + at(h.DecidedAt) + ": whoever waited has gone"
	default:
		return "it is over"
	}
}

// forgetHostKey undoes the acceptance of a host key.
func (d *dashboard) forgetHostKey(r *http.Request, endpoint, host, port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return badRequest("the port is not a number from 1 to 65535")
	}
	if err := d.Registry.ForgetHostKey(context.WithoutCancel(r.Context()), endpoint, host, uint16(n)); err != nil {
		return fmt.Errorf("forgetting a host key: %w", err)
	}
	d.Log.Info("accepted host key forgotten", "endpoint", endpoint, "host", host, "port", n, "operator", source(r))
	return nil
}
