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
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/secret"
)

const mtu = 1420

// runWireGuardPeer is one end of a plain link: wireguard-go over a kernel TUN.
// Arguments: interface, address, private key, port, peer's public key, peer's
// endpoint or "", allowed prefix.
func runWireGuardPeer(ctx context.Context, args []string) error {
	if len(args) != 7 {
		return errors.New("wireguard-peer: wants seven arguments")
	}
	dev, err := tun.CreateTUN(args[0], mtu)
	if err != nil {
		return err
	}
	d := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, args[0]+": "))
	defer d.Close()
	conf := fmt.Sprintf("private_key=%s\nlisten_port=%s\npublic_key=%s\nallowed_ip=%s\n", args[2], args[3], args[4], args[6])
	if args[5] != "" {
		conf += "endpoint=" + args[5] + "\npersistent_keepalive_interval=25\n"
	}
	if err := d.IpcSet(conf); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(args[0])
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(args[1])
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}

// runTLSSplice is the limit for HTTPS: the gateway's own tunnel, TLS terminated
// and made anew towards the upstream, and nothing between that looks at a byte.
// Arguments: CA directory, roots, private key, port, peer's public key, peer's
// prefix, upstream.
func runTLSSplice(ctx context.Context, args []string) error {
	if len(args) != 7 {
		return errors.New("tls-splice: wants seven arguments")
	}
	authority, err := ca.Open(ca.Config{Dir: args[0]})
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	s := &tlsSplice{ca: authority, roots: x509.NewCertPool(), upstream: args[6], sessions: tls.NewLRUClientSessionCache(64)}
	s.roots.AppendCertsFromPEM(pem)
	priv, err := hex.DecodeString(args[2])
	if err != nil {
		return err
	}
	pub, err := hex.DecodeString(args[4])
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
	if err := t.SetPeers([]wireguard.Peer{{PublicKey: [32]byte(pub), Prefixes: []netip.Prefix{netip.MustParsePrefix(args[5])}}}); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return t.Close()
}

type tlsSplice struct {
	ca       *ca.CA
	roots    *x509.CertPool
	upstream string
	sessions tls.ClientSessionCache
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

// serveSized answers /N with N bytes.
func serveSized(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil || n > len(zeroes) {
		http.Error(w, "want /N", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(zeroes[:n]) // the asker may be gone
}

var zeroes = make([]byte, 1<<20)
