package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/registry"
)

// openSSH prepares what agents' SSH is served with, whether or not the policy in
// force has an endpoint for it: the next one may.
func (g *gateway) openSSH(ctx context.Context, stateDir string) error {
	seed, err := g.db.SSHSeed(ctx)
	if err != nil {
		return fmt.Errorf("opening the SSH keys: %w", err)
	}
	if g.sshKeys, err = ca.NewSSH(seed); err != nil {
		return fmt.Errorf("opening the SSH keys: %w", err)
	}
	if g.recordings, err = recording.Open(filepath.Join(stateDir, "recordings"), recording.Limits{}); err != nil {
		return err
	}
	g.onClose(g.recordings.Close)
	g.ssh, err = ssh.New(ssh.Config{
		Keys:       g.sshKeys,
		Dialer:     g.dialer,
		HostKeys:   hostKeyApprovals{g.db, g.log},
		Recordings: g.recordings,
		Log:        g.log,
	})
	if err != nil {
		return fmt.Errorf("preparing the SSH handler: %w", err)
	}
	g.onClose(func() error { g.ssh.Close(); return nil })
	return nil
}

// hostKeyApprovals asks operators about host keys: an approval is a row of the
// registry.
type hostKeyApprovals struct {
	db  *registry.DB
	log *slog.Logger
}

func (a hostKeyApprovals) Accepted(endpoint, host string, port uint16) [][]byte {
	return a.db.HostKeys(endpoint, host, port)
}

// Hold waits for an operator. Its errors are read by the agent.
func (a hostKeyApprovals) Hold(ctx context.Context, r ssh.HostKeyRequest) error {
	key, err := xssh.ParsePublicKey(r.Key)
	if err != nil {
		return errors.New("it cannot be read")
	}
	detail := registry.HostKeyDetail{
		Host:        r.Host,
		Port:        r.Port,
		KeyType:     key.Type(),
		Key:         strings.TrimSpace(string(xssh.MarshalAuthorizedKey(key))),
		Fingerprint: xssh.FingerprintSHA256(key),
		Known:       knownPrints(r.Known),
	}
	decision, err := a.db.Hold(ctx, registry.HeldRequest{
		Registration: r.Registration,
		Endpoint:     r.Endpoint,
		Kind:         registry.ApproveHostKey,
		Summary:      fmt.Sprintf("the host key of %s port %d: %s", r.Host, r.Port, detail.Fingerprint),
		Detail:       detail,
		HostKey:      registry.HostKey{Host: r.Host, Port: r.Port, Key: r.Key},
	})
	switch {
	case errors.Is(err, registry.ErrTooManyHeld):
		return registry.ErrTooManyHeld
	case err != nil && ctx.Err() != nil:
		return err // nobody reads it
	case err != nil:
		a.log.Error("an operator could not be asked about a host key", "registration", r.Registration, "endpoint", r.Endpoint, "host", r.Host, "err", err)
		return errors.New("the gateway could not ask an operator")
	case decision.Allowed():
		return nil
	case decision.State == registry.ApprovalDenied && decision.Reason != "":
		return errors.New("an operator refused it: " + decision.Reason)
	case decision.State == registry.ApprovalDenied:
		return errors.New("an operator refused it")
	}
	return errors.New("no operator decided in time")
}

// maxKnownPrints bounds the fingerprints that an operator is shown beside the key
// in question: an approval's detail is bounded too.
const maxKnownPrints = 16

func knownPrints(keys [][]byte) []string {
	prints := []string{}
	for _, raw := range keys {
		if key, err := xssh.ParsePublicKey(raw); err == nil && len(prints) < maxKnownPrints {
			prints = append(prints, xssh.FingerprintSHA256(key))
		}
	}
	return prints
}
