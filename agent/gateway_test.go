package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// testCA issues certificates.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	return testCA{}.sign(t, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "test CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	})
}

// sign issues a certificate from the template; a zero CA signs it with its own
// key.
func (ca testCA) sign(t *testing.T, template *x509.Certificate) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert, key}
}

// leaf issues a server certificate for these names and addresses.
func (ca testCA) leaf(t *testing.T, names ...string) *testCA {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "gateway"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	return ca.sign(t, template)
}

func (ca testCA) pin() fingerprint { return sha256.Sum256(ca.cert.Raw) }

func (ca testCA) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
}

// chain returns leaf and issuers as a server presents them.
func (ca testCA) chain(issuers ...*testCA) tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: ca.key}
	for _, i := range issuers {
		c.Certificate = append(c.Certificate, i.cert.Raw)
	}
	return c
}

// Addresses inside the test gateway's tunnel.
var (
	tunnelDNS4 = netip.MustParseAddr("10.55.0.1")
	tunnelDNS6 = netip.MustParseAddr("fd55:c1a5::1")
	site4      = netip.MustParseAddr("192.0.2.80") // also in the world, where it says "direct"
	site6      = netip.MustParseAddr("2001:db8:c::80")
)

// nsBind opens WireGuard's sockets in another namespace.
type nsBind struct {
	conn.Bind
	ns *netns.NsHandle // nil: this one
}

func (b nsBind) Open(port uint16) (fns []conn.ReceiveFunc, got uint16, err error) {
	if b.ns == nil {
		return b.Bind.Open(port)
	}
	err = inNamespace(*b.ns, func() (err error) {
		fns, got, err = b.Bind.Open(port)
		return err
	})
	return fns, got, err
}

// testGateway is a gateway as an agent sees it: the public listener over TLS,
// and the other end of the tunnel with a few servers in it.
type testGateway struct {
	t        *testing.T
	ca       *testCA
	srv      *http.Server
	addr     string       // host:port of the listener
	addrs    []netip.Addr // of the listener
	endpoint string       // of WireGuard
	dev      *device.Device
	pub      string

	mu       sync.Mutex
	regs     map[string]*testRegistration // guarded by mu, as is all below
	starts   int
	env      map[string]string
	profiles []string
	sshCA    string
	sshHosts []string
	approve  bool                                              // new registrations are approved as they poll
	override func(w http.ResponseWriter, r *http.Request) bool // answers in place of the gateway
	started  func(enrolment.StartRequest)                      // is told of each start; nil: nobody is
}

type testRegistration struct {
	state string
	keys  enrolment.Keys
	pin   enrolment.Pin
	wg    string // public key
}

// newTestGateway listens on these addresses, the first one's port chosen by the
// kernel and shared by the others. ns nil: this namespace.
func newTestGateway(t *testing.T, ns *netns.NsHandle, addrs ...string) *testGateway {
	t.Helper()
	g := &testGateway{t: t, ca: newTestCA(t), regs: map[string]*testRegistration{}, sshCA: testSSHCA, sshHosts: testSSHHosts, profiles: []string{"ci"}, env: map[string]string{"GH_TOKEN": "clawpatrol-github_token"}}
	g.pub = g.startWireGuard(ns)
	leaf := g.ca.leaf(t, append([]string{"gw.example.net"}, addrs...)...)
	tlsConfig := &tls.Config{Certificates: []tls.Certificate{leaf.chain(g.ca)}}
	g.srv = &http.Server{Handler: http.HandlerFunc(g.serve), ErrorLog: log.New(io.Discard, "", 0)}
	port := "0"
	for _, a := range addrs {
		var ln net.Listener
		listen := func() (err error) {
			ln, err = net.Listen("tcp", net.JoinHostPort(a, port))
			return err
		}
		var err error
		if ns != nil {
			err = inNamespace(*ns, listen)
		} else {
			err = listen()
		}
		if err != nil {
			t.Fatal(err)
		}
		if port == "0" {
			_, port, _ = net.SplitHostPort(ln.Addr().String())
			g.addr = ln.Addr().String()
		}
		g.addrs = append(g.addrs, netip.MustParseAddr(a))
		go g.srv.Serve(tls.NewListener(ln, tlsConfig))
	}
	_, wgPort, _ := strings.Cut(g.endpoint, ":")
	g.endpoint = net.JoinHostPort("gw.example.net", wgPort)
	t.Cleanup(func() { g.srv.Close() })
	return g
}

// nameURL names the gateway by a name that lookup resolves to all its addresses.
func (g *testGateway) nameURL() string {
	_, port, _ := net.SplitHostPort(g.addr)
	return "https://gw.example.net:" + port
}

func (g *testGateway) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if host != "gw.example.net" {
		return nil, fmt.Errorf("no such host %q", host)
	}
	return g.addrs, nil
}

// startWireGuard starts the tunnel's other end and returns its public key.
func (g *testGateway) startWireGuard(ns *netns.NsHandle) string {
	tun, stack, err := netstack.CreateNetTUN([]netip.Addr{tunnelDNS4, tunnelDNS6, site4, site6}, nil, defaultMTU)
	if err != nil {
		g.t.Fatal(err)
	}
	key := newKey()
	pub, err := publicKey(key)
	if err != nil {
		g.t.Fatal(err)
	}
	g.dev = device.NewDevice(tun, nsBind{conn.NewStdNetBind(), ns}, device.NewLogger(device.LogLevelSilent, ""))
	if err := g.dev.IpcSet("private_key=" + hex.EncodeToString(key.Reveal())); err != nil {
		g.t.Fatal(err)
	}
	if err := g.dev.Up(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(g.dev.Close)
	text, err := g.dev.IpcGet()
	if err != nil {
		g.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "listen_port=")
	port, _, _ := strings.Cut(rest, "\n")
	g.endpoint = ":" + port
	for _, a := range []netip.Addr{site4, site6} {
		ln, err := stack.ListenTCPAddrPort(netip.AddrPortFrom(a, 80))
		if err != nil {
			g.t.Fatal(err)
		}
		go serveWord(ln, "tunnel")
	}
	for _, a := range []netip.Addr{tunnelDNS4, tunnelDNS6} {
		pc, err := stack.ListenUDPAddrPort(netip.AddrPortFrom(a, 53))
		if err != nil {
			g.t.Fatal(err)
		}
		go echoPackets(pc, "tunnel")
	}
	return pub
}

// serveWord writes word to every connection.
func serveWord(ln net.Listener, word string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, word)
		c.Close()
	}
}

// echoPackets answers every datagram with word.
func echoPackets(pc net.PacketConn, word string) {
	buf := make([]byte, 2048)
	for {
		_, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo([]byte(word), from)
	}
}

func (g *testGateway) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, enrolment.MaxBody))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.override != nil && g.override(w, r) {
		return
	}
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	refuse := func(status int, code string) {
		var e enrolment.ErrorResponse
		e.Error.Code, e.Error.Message = code, "refused"
		answer(status, e)
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	switch r.URL.Path {
	case enrolment.PathInfo:
		answer(200, enrolment.Info{Version: "test", CAFingerprint: g.ca.pin().String(), WireGuard: enrolment.InfoWireGuard{PublicKey: g.pub, Endpoint: g.endpoint}, YourAddress: host})
	case enrolment.PathStart:
		var req enrolment.StartRequest
		if err := json.Unmarshal(body, &req); err != nil {
			refuse(400, "bad_request")
			return
		}
		if g.started != nil {
			g.started(req)
		}
		g.starts++
		id := fmt.Sprintf("r_%d", g.starts)
		cred := enrolment.NewJoinCredential()
		g.regs[id] = &testRegistration{state: statePending, keys: cred.Keys(), wg: req.WireGuardPublicKey}
		answer(201, enrolment.StartResponse{Registration: id, UserCode: "ABCD-EFGH", JoinCredential: cred.Encode(), ExpiresAt: time.Now().Add(15 * time.Minute)})
	case enrolment.PathClaim, enrolment.PathPoll:
		auth, err := enrolment.ParseAuthorization(r.Header)
		reg := g.regs[auth.ID]
		if err != nil || reg == nil || reg.state == stateRevoked || !auth.Verify(reg.keys.MAC, r.Method, r.URL.Path, body) {
			refuse(401, "unauthorized")
			return
		}
		if r.URL.Path == enrolment.PathClaim {
			g.claim(reg, host, answer, refuse)
			return
		}
		if g.approve && reg.state == statePending {
			reg.state = stateApproved
		}
		resp := enrolment.PollResponse{State: reg.state, RetryAfter: 1}
		if reg.state == stateApproved {
			resp.Profiles, resp.Env, resp.SSHHosts = g.profiles, g.env, g.sshHosts
		}
		answer(200, resp)
	default:
		refuse(404, "not_found")
	}
}

func (g *testGateway) claim(reg *testRegistration, host string, answer func(int, any), refuse func(int, string)) {
	if strings.Contains(host, ":") {
		reg.pin.IPv6 = host
	} else {
		reg.pin.IPv4 = host
	}
	key, err := base64.StdEncoding.DecodeString(reg.wg)
	if err != nil {
		refuse(400, "bad_key")
		return
	}
	if err := g.dev.IpcSet(fmt.Sprintf("replace_peers=true\npublic_key=%x\npreshared_key=%x\nallowed_ip=10.55.0.16/28\nallowed_ip=fd55:c1a5:0:1::/64\n", key, reg.keys.PresharedKey.Reveal())); err != nil {
		g.t.Error(err)
	}
	answer(200, enrolment.ClaimResponse{
		Pin:       reg.pin,
		Addresses: []string{"10.55.0.17/28", "fd55:c1a5:0:1::1/64"},
		WireGuard: enrolment.ClaimWireGuard{PublicKey: g.pub, Endpoint: g.endpoint, MTU: defaultMTU, Keepalive: keepalive},
		DNS:       []string{tunnelDNS4.String(), tunnelDNS6.String()},
		CAPEM:     g.ca.pem(),
		SSHCA:     g.sshCA,
	})
}

func (g *testGateway) setState(id, state string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.regs[id].state = state
}

func (g *testGateway) setApprove(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.approve = on
}

// output collects what a command says and lets a test wait for a line.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) waitFor(t *testing.T, line string) {
	t.Helper()
	eventually(t, "the line "+line, func() bool { return strings.Contains("\n"+o.String(), "\n"+line) })
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 20 s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// world is the rest of the internet: a namespace that is the agent host's router
// and everything beyond it.
type world struct {
	ns netns.NsHandle
}

// Addresses of the world. The agent host is .2 and ::2 of the LAN.
const (
	hostIPv4, hostIPv6       = "198.51.100.2", "2001:db8:1::2"
	routerIPv4, routerIPv6   = "198.51.100.1", "2001:db8:1::1"
	gatewayIPv4, gatewayIPv6 = "203.0.113.2", "2001:db8:200::2"
)

// newWorld makes the world and the agent host's link to it, eth0.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	err = inNamespace(home, func() (err error) {
		w.ns, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ns.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	there, err := netlink.NewHandleAt(w.ns)
	must(err)
	defer there.Close()
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "lan", PeerNamespace: netlink.NsFd(w.ns)}))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName("eth0"); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
	})
	address := func(h *netlink.Handle, link, addr string) {
		t.Helper()
		l, err := h.LinkByName(link)
		must(err)
		a, err := netlink.ParseAddr(addr)
		must(err)
		if a.IP.To4() == nil {
			a.Flags = 0x02 // IFA_F_NODAD: usable at once
		}
		must(h.AddrAdd(l, a))
		must(h.LinkSetUp(l))
	}
	here, err := netlink.NewHandle()
	must(err)
	defer here.Close()
	for _, a := range []string{routerIPv4 + "/24", routerIPv6 + "/64"} {
		address(there, "lan", a)
	}
	for _, a := range []string{gatewayIPv4 + "/32", gatewayIPv6 + "/128", site4.String() + "/32", site6.String() + "/128"} {
		address(there, "lo", a)
	}
	for _, a := range []string{hostIPv4 + "/24", hostIPv6 + "/64"} {
		address(here, "eth0", a)
	}
	for _, gw := range []string{routerIPv4, routerIPv6} {
		dst := netip.MustParsePrefix("0.0.0.0/0")
		if strings.Contains(gw, ":") {
			dst = netip.MustParsePrefix("::/0")
		}
		must(here.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: net.ParseIP(gw)}))
	}
	// The kernel makes an IPv6 address the host's own some time after it was added.
	eventually(t, "local IPv6 route", func() bool {
		routes, err := netlink.RouteGet(net.ParseIP(hostIPv6))
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	})
	return w
}

// serve answers TCP with a word at an address of the world.
func (w *world) serve(t *testing.T, addr, word string) {
	t.Helper()
	var ln net.Listener
	if err := inNamespace(w.ns, func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go serveWord(ln, word)
}

// serveUDP answers datagrams with a word.
func (w *world) serveUDP(t *testing.T, addr, word string) {
	t.Helper()
	var pc net.PacketConn
	if err := inNamespace(w.ns, func() (err error) {
		pc, err = net.ListenPacket("udp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go echoPackets(pc, word)
}

// dial connects from an address of the world.
func (w *world) dial(from, to string) (c net.Conn, err error) {
	err = inNamespace(w.ns, func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 3 * time.Second}
		c, err = d.Dial("tcp", to)
		return err
	})
	return c, err
}
