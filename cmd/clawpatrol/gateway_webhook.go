package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clawpatrol/clawpatrol/dashboard/webhook"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// maxSecretFile bounds a secret in $CREDENTIALS_DIRECTORY, in bytes.
const maxSecretFile = 64 << 10

// openWebhook prepares announcing what waits for an operator, where the policy
// asks for it.
func (g *gateway) openWebhook(pol *policy.Policy) error {
	hook := pol.Gateway.Webhook
	if hook.URL == "" {
		return nil
	}
	cfg := webhook.Config{Registry: g.db, URL: hook.URL, Dashboard: pol.Gateway.DashboardURL, Log: g.log}
	if hook.Secret != "" {
		cfg.Secret = func() (secret.Secret, error) { return namedSecret(g.db, hook.Secret) }
	}
	var err error
	g.webhook, err = webhook.New(cfg)
	return err
}

// webhookStatus is for the dashboard; nil: nothing is announced.
func (g *gateway) webhookStatus() func() webhook.Status {
	if g.webhook == nil {
		return nil
	}
	return g.webhook.Status
}

// runWebhook announces until ctx ends.
func (g *gateway) runWebhook(ctx context.Context) error {
	if g.webhook == nil {
		return nil
	}
	return g.webhook.Run(ctx)
}

// namedSecret is what {{secret:NAME}} stands for: the registry's, else systemd's
// credential of that name (systemd.exec(5), LoadCredential=), else the
// environment's. The error has no value in it.
func namedSecret(db *registry.DB, name string) (secret.Secret, error) {
	if s := db.NamedSecret(name); !s.IsZero() {
		return s, nil
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		b, err := readSecretFile(filepath.Join(dir, name))
		if err == nil {
			return secret.New(b), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return secret.Secret{}, fmt.Errorf("reading the secret %s from $CREDENTIALS_DIRECTORY: %w", name, err)
		}
	}
	if s := os.Getenv("CLAWPATROL_SECRET_" + name); s != "" {
		return secret.New([]byte(s)), nil
	}
	return secret.Secret{}, fmt.Errorf("the secret %s is not set", name)
}

// readSecretFile reads a file that is a secret, without the line end that editors
// put behind it.
func readSecretFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 || len(b) > maxSecretFile {
		return nil, fmt.Errorf("it is empty, or has more than %d bytes", maxSecretFile)
	}
	return b, nil
}
