package ssh

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// authentication is what one credential presents to an upstream.
type authentication struct {
	user    string
	methods []xssh.AuthMethod
	scrub   *scrubber // of what must not come back
	used    bool      // the upstream asked for it; of the goroutine that makes the connection
}

var (
	// errUnasked: the upstream lets in whoever comes. What should have carried a
	// credential does not go ahead without (I21).
	errUnasked = &failure{class: "no_authentication", reason: "it let the gateway in without asking for the credential", detail: errors.New("the upstream accepts the method none")}

	errUser = &proxy.Refusal{Code: proxy.CodeDenied, Reason: "nothing says which user to be there"}
)

// newAuthentication makes what grant's credential presents for an agent that
// logged in as login. Its errors are refusals.
func newAuthentication(opener *keys, grant *proxy.Grant, login string) (*authentication, error) {
	a := &authentication{user: userOf(grant.Credential, login)}
	if a.user == "" {
		return nil, errUser
	}
	switch grant.Credential.Type {
	case "ssh_key":
		return a, a.withKey(opener, grant)
	case "ssh_password":
		return a, a.withPassword(grant)
	}
	return nil, &proxy.Refusal{Code: proxy.CodeDenied, Reason: "credential " + grant.Credential.Ref() + " is not one for ssh"}
}

// withKey presents a key, and first its certificate where there is one.
func (a *authentication) withKey(opener *keys, grant *proxy.Grant) error {
	key, err := grant.Secret("private_key")
	if err != nil {
		return err
	}
	unreadable := &proxy.Refusal{Code: proxy.CodeSecretMissing, Reason: "what is stored for credential " + grant.Credential.Ref() + " is not a key that can be used: an operator has to store it again"}
	passphrase, err := grant.Secret("passphrase")
	if err != nil {
		passphrase = secret.Secret{} // optional
	}
	signer, err := opener.open(grant.Credential.Ref(), key, passphrase)
	if err != nil {
		return unreadable // the error may quote the key
	}
	if signer, err = modern(signer); err != nil {
		return unreadable
	}
	signers := []xssh.Signer{signer}
	if certificate, err := grant.Secret("certificate"); err == nil && len(certificate.Reveal()) > 0 {
		certified, err := certify(certificate.Reveal(), signer)
		if err != nil {
			return unreadable
		}
		signers = []xssh.Signer{certified, signer}
	}
	a.methods = []xssh.AuthMethod{xssh.PublicKeysCallback(func() ([]xssh.Signer, error) {
		a.used = true
		return signers, nil
	})}
	return nil
}

// modern keeps RSA keys from signing with SHA-1 (RFC 8332).
func modern(signer xssh.Signer) (xssh.Signer, error) {
	s, ok := signer.(xssh.AlgorithmSigner)
	if !ok || signer.PublicKey().Type() != xssh.KeyAlgoRSA {
		return signer, nil
	}
	return xssh.NewSignerWithAlgorithms(s, []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256})
}

// certify reads a certificate as it stands in a file -cert.pub.
func certify(line []byte, signer xssh.Signer) (xssh.Signer, error) {
	fields := bytes.Fields(line)
	if len(fields) < 2 {
		return nil, errors.New("no certificate")
	}
	raw, err := base64.StdEncoding.DecodeString(string(fields[1]))
	if err != nil {
		return nil, err
	}
	key, err := xssh.ParsePublicKey(raw)
	if err != nil {
		return nil, err
	}
	certificate, ok := key.(*xssh.Certificate)
	if !ok {
		return nil, errors.New("no certificate")
	}
	return xssh.NewCertSigner(certificate, signer)
}

// withPassword presents a password, also to a server that asks for it as the one
// question of keyboard-interactive (RFC 4256), its answer not to be shown. More
// questions, or others, get no answer.
func (a *authentication) withPassword(grant *proxy.Grant) error {
	password, err := grant.Secret("password")
	if err != nil {
		return err
	}
	a.scrub = newScrubber(password)
	asked := false
	a.methods = []xssh.AuthMethod{
		xssh.PasswordCallback(func() (string, error) {
			a.used = true
			return string(password.Reveal()), nil
		}),
		xssh.KeyboardInteractive(func(_, _ string, questions []string, shown []bool) ([]string, error) {
			switch {
			case len(questions) == 0:
				return nil, nil
			case len(questions) > 1 || shown[0] || asked:
				return nil, errQuestions
			}
			asked, a.used = true, true
			return []string{string(password.Reveal())}, nil
		}),
	}
	return nil
}

var errQuestions = errors.New("the upstream asks for more than a password")

// clientConfig is what the gateway meets an upstream with. The host key is
// checked in the key exchange: nothing of the credential has been used by then
// (I04).
func (a *authentication) clientConfig(common xssh.Config, check *hostKeyCheck) *xssh.ClientConfig {
	return &xssh.ClientConfig{
		Config:            common,
		User:              a.user,
		Auth:              a.methods,
		HostKeyCallback:   check.verify,
		HostKeyAlgorithms: check.algorithms(),
		ClientVersion:     version,
	}
}

// explain turns the error of a handshake into words of our own: the error itself
// may quote what the upstream said.
func (a *authentication) explain(ctx context.Context, err error) error {
	var negotiation *xssh.AlgorithmNegotiationError
	switch {
	case ctx.Err() != nil:
		return explain(ctx, ctx.Err())
	case errors.Is(err, errQuestions):
		return &failure{class: "credential_rejected", reason: "it asks for more than the credential's password", detail: err}
	case errors.As(err, &negotiation):
		return &failure{class: "algorithms", reason: "it offers no " + negotiation.What + " that is still safe", detail: errors.New("no common algorithm for " + negotiation.What)}
	case strings.Contains(err.Error(), "unable to authenticate"), strings.Contains(err.Error(), "no common public key signature algorithm"):
		return &failure{class: "credential_rejected", reason: "it did not accept the credential for " + visible(a.user), detail: errors.New("authentication failed")}
	case strings.Contains(err.Error(), "ssh: disconnect"):
		return &failure{class: "disconnected", reason: "it ended the connection before the gateway was let in", detail: errors.New("disconnected")}
	}
	return explain(ctx, err)
}

// explain turns an error of a connection into words of our own.
func explain(ctx context.Context, err error) error {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	if cause := context.Cause(ctx); ctx.Err() != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	words := protocols.Explain(err)
	return &failure{class: words.Class, reason: words.Reason, detail: errors.New(words.Class)}
}
