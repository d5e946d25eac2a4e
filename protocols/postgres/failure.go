package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/proxy"
)

// The SQLSTATEs of the gateway's own words (PostgreSQL's documentation, appendix
// "PostgreSQL Error Codes").
const (
	insufficientPrivilege = "42501"
	invalidAuthorization  = "28000"
	tooManyConnections    = "53300"
	cannotConnectNow      = "57P03"
	adminShutdown         = "57P01"
	cannotConnect         = "08001" // sqlclient_unable_to_establish_sqlconnection
	connectionFailure     = "08006"
	protocolViolation     = "08P01"
	ioError               = "58030"
)

// maxReason is how much of an upstream's own words goes into the action log, in
// bytes.
const maxReason = 200

// fatal is why there is no session, or no longer one, in words for the agent.
type fatal struct {
	code    string // SQLSTATE
	message string
	detail  string
	hint    string

	class string // for the action log; empty: code
}

func (f *fatal) Error() string { return f.message }

// status is what the action log says.
func (f *fatal) status() string {
	if f.class != "" {
		return f.class
	}
	return f.code
}

// response is f as an ErrorResponse.
func (f *fatal) response() []byte {
	return errorResponse("FATAL", f.code, f.message, f.detail, f.hint)
}

func errorResponse(severity, code, message, detail, hint string) []byte {
	b, err := (&pgproto3.ErrorResponse{
		Severity:            severity,
		SeverityUnlocalized: severity,
		Code:                code,
		Message:             message,
		Detail:              detail,
		Hint:                hint,
	}).Encode(nil)
	if err != nil { // longer than a message can be, which nothing here is
		return nil
	}
	return b
}

func protocolError(message string) error {
	return &fatal{code: protocolViolation, message: message}
}

// stateOf is the SQLSTATE of a refusal.
func stateOf(r *proxy.Refusal) string {
	switch r.Code {
	case proxy.CodeLogUnavailable:
		return ioError
	case proxy.CodeSecretMissing, proxy.CodeNotApproved, proxy.CodeNotInScope, proxy.CodeProfileMissing, proxy.CodePlaceholderRequired:
		return invalidAuthorization
	case proxy.CodePolicyChanged:
		return adminShutdown
	}
	return insufficientPrivilege
}

// refused is why the Gate did not grant a connection, for the agent.
func refused(err error) error {
	var r *proxy.Refusal
	if errors.As(err, &r) {
		return &fatal{code: stateOf(r), message: r.Reason, detail: ruleOf(r), class: r.Code}
	}
	return err
}

// ruleOf names the rule that refused, if one did.
func ruleOf(r *proxy.Refusal) string {
	if r.Rule == "" {
		return ""
	}
	return "rule: " + r.Rule
}

// explain says why the upstream could not be used. What the upstream itself said
// the agent reads with its own SQLSTATE, without the password.
func (c *conversation) explain(ctx context.Context, err error, hide *masker) *fatal {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		f := &fatal{
			code:    hide.short(said.Code, 5),
			message: hide.text(said.Message),
			detail:  hide.text(said.Detail),
			hint:    hide.text(said.Hint),
		}
		f.class = f.code + ": " + f.message[:min(len(f.message), maxReason)]
		if len(f.code) == 5 && f.code[:2] == "28" && f.hint == "" {
			f.hint = "The gateway logs in with a credential of its own: whatever you send as a password makes no difference. An operator has to look at what is stored."
		}
		return f
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if reason := authFailure(err); reason != "" {
		return &fatal{code: invalidAuthorization, message: c.host + " " + reason, class: "authentication"}
	}
	why := protocols.Explain(err)
	return &fatal{code: cannotConnect, message: fmt.Sprintf("%s could not be reached: %s", c.host, why.Reason), class: why.Class}
}
