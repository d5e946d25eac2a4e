package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// browserStores are the certificate databases of a user, below the home
// directory, in the order in which Chromium looks for them. Chrome, Edge, Brave
// and the headless shells that Playwright and Puppeteer download read the same.
var browserStores = []string{".pki/nssdb", ".local/share/pki/nssdb"}

// browserNick is the CA's name in such a database. There is one at most.
const browserNick = "clawpatrol"

// TrustBrowsers adds the gateway's CA to the calling user's certificate database,
// which Chromium reads beside roots of its own, and which no system store or
// environment variable stands in for. It returns the database's directory. A CA
// of an earlier enrolment is replaced.
func (a *Agent) TrustBrowsers(ctx context.Context) (db string, err error) {
	certutil, db, err := a.browserStore()
	if err != nil {
		return "", err
	}
	pem, err := readBounded(a.paths.ca())
	if err == nil {
		_, _, err = parseCA(string(pem))
	}
	if err != nil {
		return "", WithHint(fmt.Errorf("reading the gateway's CA certificate: %w", err), hintUp)
	}
	if _, err := os.Stat(filepath.Join(db, "cert9.db")); err != nil {
		if err := os.MkdirAll(db, 0o700); err != nil {
			return "", fmt.Errorf("making the certificate database: %w", err)
		}
		if err := a.cfg.Run(ctx, certutil, "-N", "--empty-password", "-d", "sql:"+db); err != nil {
			return "", fmt.Errorf("making the certificate database: %w", err)
		}
	} else if err := a.distrust(ctx, certutil, db); err != nil {
		return "", err
	}
	// Trusted to issue servers' certificates, and for nothing else.
	if err := a.cfg.Run(ctx, certutil, "-A", "-d", "sql:"+db, "-n", browserNick, "-t", "C,,", "-i", a.paths.ca()); err != nil {
		return "", fmt.Errorf("adding the gateway's CA to %s: %w", db, err)
	}
	return db, nil
}

// DistrustBrowsers takes it out again. It needs no enrolment: what leave cannot
// know of is undone afterwards.
func (a *Agent) DistrustBrowsers(ctx context.Context) (db string, err error) {
	certutil, db, err := a.browserStore()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(db, "cert9.db")); err != nil {
		return db, nil // nothing was ever put there
	}
	return db, a.distrust(ctx, certutil, db)
}

// distrust removes every certificate under our name.
func (a *Agent) distrust(ctx context.Context, certutil, db string) error {
	for range maxBrowserCAs {
		if a.cfg.Run(ctx, certutil, "-L", "-d", "sql:"+db, "-n", browserNick) != nil {
			return nil // it has none
		}
		if err := a.cfg.Run(ctx, certutil, "-D", "-d", "sql:"+db, "-n", browserNick); err != nil {
			return fmt.Errorf("taking the gateway's CA out of %s: %w", db, err)
		}
	}
	return fmt.Errorf("taking the gateway's CA out of %s: there are more than %d", db, maxBrowserCAs)
}

// maxBrowserCAs bounds how many of our name are removed.
const maxBrowserCAs = 16

// browserStore returns where certutil and the calling user's database are.
func (a *Agent) browserStore() (certutil, db string, err error) {
	if certutil = a.program("certutil"); certutil == "" {
		return "", "", WithHint(errors.New("certutil is not installed"), "install libnss3-tools (Debian, Ubuntu), nss-tools (Fedora) or nss (Arch)")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", "", err
	}
	for _, s := range browserStores {
		if _, err := os.Stat(filepath.Join(home, s)); err == nil {
			return certutil, filepath.Join(home, s), nil
		}
	}
	return certutil, filepath.Join(home, browserStores[0]), nil
}
