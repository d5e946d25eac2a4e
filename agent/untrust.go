package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What update-ca-certificates of Debian leaves behind when a certificate of
// /usr/local/share/ca-certificates is gone: its link, the link by its hash, and
// what its hooks were told of it when it came. With --fresh it would make all
// links anew, and tell the hooks of every certificate.
const (
	systemCerts = "/etc/ssl/certs"
	debianLink  = "clawpatrol.pem" // trustFile, as Debian names it
	debianCerts = "/usr/local/share/ca-certificates"

	// javaHook keeps the store of the distribution's JVMs. It reads lines of + or -
	// and a link's path.
	javaHook = "/etc/ca-certificates/update.d/jks-keystore"
)

// finishRefresh removes it, once our certificate is gone. Where Java's store
// cannot be changed now it is reported, and leaving goes on.
func (a *Agent) finishRefresh(ctx context.Context) error {
	link := filepath.Join(systemCerts, debianLink)
	to, err := os.Readlink(a.host(link))
	if err != nil || to != filepath.Join(debianCerts, trustFile) {
		return nil // not Debian's way, or done already
	}
	if _, err := os.Stat(a.host(to)); !errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else's by now
	}
	if st, err := os.Stat(a.host(javaHook)); err == nil && st.Mode()&0o111 != 0 {
		if err := a.cfg.Run(ctx, "/bin/sh", "-c", "echo '-"+link+"' | "+javaHook); err != nil {
			a.say("the gateway's CA may still be in Java's store: %v", err)
		}
	}
	entries, err := os.ReadDir(a.host(systemCerts))
	if err != nil {
		return fmt.Errorf("removing the links to the gateway's CA: %w", err)
	}
	// The link itself goes last: while it is there, this is done again.
	for _, e := range entries {
		path := a.host(filepath.Join(systemCerts, e.Name()))
		if to, err := os.Readlink(path); err == nil && to == debianLink {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing a link to the gateway's CA: %w", err)
			}
		}
	}
	if err := os.Remove(a.host(link)); err != nil {
		return fmt.Errorf("removing a link to the gateway's CA: %w", err)
	}
	return nil
}
