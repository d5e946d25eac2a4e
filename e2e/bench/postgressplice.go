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

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/secret"
)

// The length and the code of an SSLRequest.
const sslRequest = "\x00\x00\x00\x08\x04\xd2\x16\x2f"

// postgresSplice is the limit for Postgres: TLS towards the server, which ours
// has too, and nothing between looks at a byte. The password is the agent's own.
type postgresSplice struct {
	upstream string
	tls      *tls.Config
}

// runPostgresSplice takes the upstream's roots from its directory. Arguments:
// directory, upstream, name of its certificate, and either an address to listen
// on, or for a tunnel a private key, port, peer's public key, peer's prefix, and
// the address it comes from.
func runPostgresSplice(ctx context.Context, args []string) error {
	if len(args) != 4 && len(args) != 8 {
		return errors.New("postgres-splice: wants four arguments, or eight")
	}
	pem, err := os.ReadFile(filepath.Join(args[0], "roots.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s := &postgresSplice{upstream: args[1], tls: &tls.Config{RootCAs: roots, ServerName: args[2]}}
	if len(args) == 4 {
		ln, err := net.Listen("tcp", args[3])
		if err != nil {
			return err
		}
		fmt.Println("ready")
		go acceptAll(ln, s.serve)
		<-ctx.Done()
		return ln.Close()
	}
	t, err := s.tunnel(args[3:])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return t.Close()
}

func (s *postgresSplice) tunnel(args []string) (*wireguard.Tunnel, error) {
	priv, err := hex.DecodeString(args[0])
	if err != nil {
		return nil, err
	}
	pub, err := hex.DecodeString(args[2])
	if err != nil {
		return nil, err
	}
	from, err := netip.ParseAddr(args[4])
	if err != nil {
		return nil, err
	}
	t, err := wireguard.Open(wireguard.Config{
		PrivateKey: secret.New(priv),
		Listen:     ":" + args[1],
		Admit:      func(netip.Addr) bool { return true },
		TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) {
			return s.serve, true
		},
	})
	if err != nil {
		return nil, err
	}
	return t, t.SetPeers([]wireguard.Peer{{PublicKey: [32]byte(pub), Prefixes: []netip.Prefix{netip.MustParsePrefix(args[3])}, Pin: []netip.Addr{from}}})
}

func (s *postgresSplice) serve(c net.Conn) {
	if c == nil {
		return
	}
	defer c.Close()
	raw, err := net.Dial("tcp", s.upstream)
	if err != nil {
		return
	}
	defer raw.Close()
	if _, err := io.WriteString(raw, sslRequest); err != nil {
		return
	}
	if _, err := io.ReadFull(raw, make([]byte, 1)); err != nil {
		return
	}
	up := tls.Client(raw, s.tls)
	if err := up.Handshake(); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { spliceInto(up, c) })
	wg.Go(func() { spliceInto(c, up) })
	wg.Wait()
}

// spliceInto copies as a plain relay in Go does, and ends both where one has
// ended.
func spliceInto(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	_, _ = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf) // either end may go
	_ = dst.Close()
}
