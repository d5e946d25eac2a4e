package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

// system is what the dashboard shows of the gateway itself. What cannot be read
// at the moment is zero: a page about the gateway's state must not fail by it.
func (g *gateway) system() dashboard.System {
	dir := g.policy.Load().Gateway.StateDir
	key := g.tunnel.PublicKey()
	s := dashboard.System{
		Version: version, Go: runtime.Version(), Started: g.started,
		Listeners: []dashboard.Listener{
			{Name: "gateway.listen", Address: g.public.ln.Addr().String(), TLS: true},
			{Name: "gateway.dashboard.listen", Address: g.dashboard.ln.Addr().String(), TLS: g.dashboard.TLS},
		},
		WireGuard:     dashboard.WireGuard{PublicKey: base64.StdEncoding.EncodeToString(key[:]), Port: g.tunnel.ListenPort()},
		CAFingerprint: g.ca.Fingerprint(),
		CAExpires:     g.ca.Certificate().NotAfter,
		CAPEM:         g.ca.CertPEM(),
		SSHAuthority:  g.sshKeys.Authority(),
		StateDir:      dir,
	}
	for _, name := range []string{"clawpatrol.db", "clawpatrol.db-wal"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
			s.Database += fi.Size()
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		s.DiskFree, s.DiskTotal = int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	}
	return s
}
