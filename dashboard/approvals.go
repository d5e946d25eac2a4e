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
	Summary          string          `json:"summary"`
	Detail           json.RawMessage `json:"detail"`
	State            string          `json:"state"`
	Reason           string          `json:"reason"`   // the operator's
	Operator         string          `json:"operator"` // who decided
	CreatedAt        time.Time       `json:"created_at"`
	ExpiresAt        time.Time       `json:"expires_at"`
	DecidedAt        *time.Time      `json:"decided_at"` // when it ended; null: it has not
}

func (d *dashboard) approvalView(h registry.Held) approvalView {
	v := approvalView{
		ID: string(h.ID), Registration: string(h.Registration), Endpoint: h.Endpoint, Kind: string(h.Kind),
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

// decide answers what {id} in r's path names.
func (d *dashboard) decide(r *http.Request, decision, reason string) error {
	if decision != decideAllow && decision != decideDeny {
		return &failure{http.StatusUnprocessableEntity, "bad_decision", `the decision is neither "allow" nor "deny"`, ""}
	}
	reason, err := givenReason(reason)
	if err != nil {
		return err
	}
	id := registry.ApprovalID(r.PathValue("id"))
	err = d.Registry.Decide(context.WithoutCancel(r.Context()), id, decision == decideAllow, reason, "dashboard "+source(r).String())
	if errors.Is(err, registry.ErrState) {
		return &failure{http.StatusConflict, "wrong_state", "it does not wait any more", "look at what has become of it"}
	}
	if err != nil {
		return fmt.Errorf("deciding an approval: %w", err)
	}
	d.Log.Info("approval decided", "approval", id, "decision", decision, "operator", source(r))
	return nil
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
