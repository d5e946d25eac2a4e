package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/secret"
)

// tlsSplice is the limit for HTTPS: it terminates TLS, makes it anew towards the
// upstream, and nothing between looks at a byte.
type tlsSplice struct {
	ca       *ca.CA
	roots    *x509.CertPool
	upstream string
	sessions tls.ClientSessionCache
}

// newTLSSplice takes the upstream's roots from dir and keeps its CA there.
func newTLSSplice(dir, upstream string) (*tlsSplice, error) {
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca")})
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(dir, "roots.pem"))
	if err != nil {
		return nil, err
	}
	s := &tlsSplice{ca: authority, roots: x509.NewCertPool(), upstream: upstream, sessions: tls.NewLRUClientSessionCache(64)}
	s.roots.AppendCertsFromPEM(pem)
	return s, nil
}

// runTLSSplice is the splice behind the gateway's own tunnel. Arguments:
// directory, upstream, private key, port, peer's public key, peer's prefix, and
// the address it comes from.
func runTLSSplice(ctx context.Context, args []string) error {
	if len(args) != 7 {
		return errors.New("tls-splice: wants seven arguments")
	}
	s, err := newTLSSplice(args[0], args[1])
	if err != nil {
		return err
	}
	priv, err := hex.DecodeString(args[2])
	if err != nil {
		return err
	}
	pub, err := hex.DecodeString(args[4])
	if err != nil {
		return err
	}
	from, err := netip.ParseAddr(args[6])
	if err != nil {
		return err
	}
	t, err := wireguard.Open(wireguard.Config{
		PrivateKey: secret.New(priv),
		Listen:     ":" + args[3],
		Admit:      func(netip.Addr) bool { return true },
		TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) {
			return s.serve, true
		},
	})
	if err != nil {
		return err
	}
	if err := t.SetPeers([]wireguard.Peer{{PublicKey: [32]byte(pub), Prefixes: []netip.Prefix{netip.MustParsePrefix(args[5])}, Pin: []netip.Addr{from}}}); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return t.Close()
}

// runTLSSpliceAlone is the splice behind a plain TCP listener. Arguments:
// directory, upstream, address to listen on.
func runTLSSpliceAlone(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("tls-splice-alone: wants three arguments")
	}
	s, err := newTLSSplice(args[0], args[1])
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", args[2])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go acceptAll(ln, s.serve)
	<-ctx.Done()
	return ln.Close()
}

func (s *tlsSplice) serve(c net.Conn) {
	if c == nil {
		return
	}
	defer c.Close()
	agent := tls.Server(c, &tls.Config{
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.ca.Leaf(h.ServerName) },
		NextProtos:     []string{"h2", "http/1.1"},
	})
	if err := agent.Handshake(); err != nil {
		return
	}
	towards := &tls.Config{RootCAs: s.roots, ServerName: apiHost, ClientSessionCache: s.sessions}
	if p := agent.ConnectionState().NegotiatedProtocol; p != "" {
		towards.NextProtos = []string{p}
	}
	up, err := tls.Dial("tcp", s.upstream, towards)
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	wg.Go(func() { relay(up, agent) })
	wg.Go(func() { relay(agent, up) })
	wg.Wait()
}

func relay(dst, src *tls.Conn) {
	buf := make([]byte, 32<<10)
	// Only Read and Write: no ReadFrom that would choose its own buffer.
	_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf) // either end may go
	_ = dst.CloseWrite()
}
