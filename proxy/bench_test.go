package proxy_test

import (
	"io"
	"net"
	"testing"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

// BenchmarkSplice compares a connection through the proxy with a direct one; the
// tunnel is not in it.
func BenchmarkSplice(b *testing.B) {
	up := upstream(b, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, onlyReader{c}) })
	k := proxytest.New(b, reaching(443, up))
	id := k.Approve("a", "red")
	through, err := k.Dial(id, up)
	if err != nil {
		b.Fatal(err)
	}
	direct, err := net.Dial("tcp", up.String())
	if err != nil {
		b.Fatal(err)
	}
	defer direct.Close()
	chunk := make([]byte, 1<<20)
	for name, conn := range map[string]net.Conn{"direct": direct, "spliced": through} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// onlyReader hides WriterTo.
type onlyReader struct{ io.Reader }

// BenchmarkAuthorize is the cost of one action at the Gate, its row included.
func BenchmarkAuthorize(b *testing.B) {
	k := proxytest.New(b, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	agent, gateway := net.Pipe()
	defer agent.Close()
	f := k.Flow(k.Approve("a", "red"), "api.test", 443, gateway)
	b.ReportAllocs()
	for b.Loop() {
		grant, err := f.Authorize(b.Context(), proxy.Action{Summary: "GET /"})
		if err != nil {
			b.Fatal(err)
		}
		grant.Finish(registry.ActionResult{Status: "200"})
	}
}

// BenchmarkAdmit is the cost of identity for each packet.
func BenchmarkAdmit(b *testing.B) {
	k := proxytest.New(b, twoTeams)
	src := k.Source(k.Approve("a", "red"), false).Addr()
	b.ReportAllocs()
	for b.Loop() {
		if !k.Proxy.Admit(src) {
			b.Fatal("not admitted")
		}
	}
}

// BenchmarkUDP is the cost of a datagram on the receive path.
func BenchmarkUDP(b *testing.B) {
	up := udpUpstream(b, func([]byte) []byte { return nil })
	k := proxytest.New(b, reaching(443, up))
	src := k.Source(k.Approve("a", "red"), false)
	payload := make([]byte, 1200)
	b.ReportAllocs()
	for b.Loop() {
		k.Proxy.UDP(src, up, payload)
	}
}
