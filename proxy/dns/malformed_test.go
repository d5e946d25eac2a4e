package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

func pack(t testing.TB, m *mdns.Msg) []byte {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func TestDNS_WhatIsNotAProperQuestion(t *testing.T) {
	good := pack(t, question("www.example.org", mdns.TypeA))
	with := func(edit func(b []byte) []byte) []byte { return edit(bytes.Clone(good)) }
	optioned := func(edit func(m *mdns.Msg)) []byte {
		m := question("www.example.org", mdns.TypeA)
		m.SetEdns0(1232, false)
		edit(m)
		return pack(t, m)
	}
	const none = -1
	for name, tt := range map[string]struct {
		msg   []byte
		rcode int
	}{
		"empty":                   {nil, none},
		"half a header":           {good[:11], none},
		"a response":              {with(func(b []byte) []byte { b[2] |= 0x80; return b }), none},
		"only a header":           {good[:12], mdns.RcodeFormatError},
		"no question":             {with(func(b []byte) []byte { b[5] = 0; return b[:12] }), mdns.RcodeFormatError},
		"two questions":           {with(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), mdns.RcodeFormatError},
		"half a name":             {good[:16], mdns.RcodeFormatError},
		"no type":                 {good[:len(good)-4], mdns.RcodeFormatError},
		"half a class":            {good[:len(good)-1], mdns.RcodeFormatError},
		"a pointer":               {with(func(b []byte) []byte { return append(b[:12], 0xc0, 12, 0, 1, 0, 1) }), mdns.RcodeFormatError},
		"a pointer to the header": {with(func(b []byte) []byte { return append(b[:12], 0xc0, 0, 0, 1, 0, 1) }), mdns.RcodeFormatError},
		"a label of 64":           {with(func(b []byte) []byte { return append(b[:12], append([]byte{64}, make([]byte, 80)...)...) }), mdns.RcodeFormatError},
		"a name of 256": {with(func(b []byte) []byte {
			return append(append(b[:12], bytes.Repeat([]byte("\x01a"), 128)...), 0, 0, 1, 0, 1)
		}), mdns.RcodeFormatError},
		"records that are not there": {with(func(b []byte) []byte { b[11] = 1; return b }), mdns.RcodeFormatError},
		"a record cut short":         {optioned(func(*mdns.Msg) {})[:len(good)+10], mdns.RcodeFormatError},
		"two OPT records":            {optioned(func(m *mdns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), mdns.RcodeFormatError},
		"an OPT of a name":           {optioned(func(m *mdns.Msg) { m.Extra[0].Header().Name = "x." }), mdns.RcodeFormatError},
		"NOTIFY":                     {with(func(b []byte) []byte { b[2] = 4 << 3; return b }), mdns.RcodeNotImplemented},
		"opcode 15":                  {with(func(b []byte) []byte { b[2] = 15 << 3; return b[:12] }), mdns.RcodeNotImplemented},
		"EDNS version 1":             {optioned(func(m *mdns.Msg) { m.IsEdns0().SetVersion(1) }), mdns.RcodeBadVers},
		"CHAOS":                      {with(func(b []byte) []byte { b[len(b)-1] = 3; return b }), mdns.RcodeRefused},
		"class ANY":                  {with(func(b []byte) []byte { b[len(b)-1] = 255; return b }), mdns.RcodeRefused},
		"AXFR":                       {pack(t, question("example.org", mdns.TypeAXFR)), mdns.RcodeRefused},
		"IXFR":                       {pack(t, question("example.org", mdns.TypeIXFR)), mdns.RcodeRefused},
		"MAILB":                      {pack(t, question("example.org", mdns.TypeMAILB)), mdns.RcodeRefused},
		"OPT as a question":          {pack(t, question("example.org", mdns.TypeOPT)), mdns.RcodeRefused},
		"TKEY":                       {pack(t, question("example.org", mdns.TypeTKEY)), mdns.RcodeRefused},
	} {
		h := build(t, nil)
		reply, err := h.Answer(t.Context(), dns.Query{Registration: "r1", Server: gateway, Message: tt.msg})
		if tt.rcode == none {
			if err == nil {
				t.Errorf("%s: answered with %x", name, reply)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var m mdns.Msg
		if err := m.Unpack(reply); err != nil {
			t.Errorf("%s: %v in %x", name, err, reply)
			continue
		}
		if m.Rcode != tt.rcode || m.Id != binary.BigEndian.Uint16(tt.msg) || !m.Response || len(m.Answer) > 0 {
			t.Errorf("%s: want %s:\n%s", name, mdns.RcodeToString[tt.rcode], &m)
		}
	}
}

func TestDNS_LongestNamesAreFine(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	h := build(t, world)
	long := strings.Repeat(strings.Repeat("a", 62)+".", 4)
	for _, name := range []string{long[:len(long)-2] + ".", strings.Repeat("a.", 127), ".", strings.Repeat("a", 63) + "."} {
		only(t, h.ask(t, scopeOf("*."+name, "api.example.com"), gateway, question(name, mdns.TypeA)))
	}
	if rr := only(t, h.ask(t, nil, gateway, question("example.org", mdns.TypeANY))); rr.Header().Rrtype != mdns.TypeHINFO {
		t.Errorf("ANY: %s", rr)
	}
}

// mumble is a resolver that says one thing to whatever it is told.
type mumble struct {
	net.Conn
	reply []byte
}

func (m *mumble) Write(b []byte) (int, error) { return len(b), nil }
func (m *mumble) Read(b []byte) (int, error) {
	if len(m.reply) == 0 {
		return 0, errors.New("no more")
	}
	n := copy(b, m.reply)
	m.reply = m.reply[n:]
	return n, nil
}

func FuzzAnswer(f *testing.F) {
	for _, m := range []*mdns.Msg{
		question("api.example.com", mdns.TypeA), question("x.wild.example.com", mdns.TypeHTTPS), question("www.example.org", mdns.TypeANY), question("1.192.55.10.in-addr.arpa", mdns.TypePTR),
		question("localhost", mdns.TypeAAAA), question("_8443._https.api.example.com", mdns.TypeSVCB), new(mdns.Msg).SetUpdate("example.org."),
	} {
		wire := pack(f, m)
		f.Add(wire, wire, true, false)
		m.SetEdns0(512, true)
		f.Add(pack(f, m), []byte{}, false, true)
	}
	h := build(f, nil, func(c *dns.Config) {
		c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} }
	})
	scope := scopeOf("api.example.com", "*.wild.example.com")
	f.Fuzz(func(t *testing.T, query, reply []byte, own, tcp bool) {
		q := dns.Query{Registration: "r1", Scope: scope, Server: gateway, TCP: tcp, Message: query}
		if !own {
			q.Server = netip.MustParseAddrPort("192.0.2.53:53")
		}
		before := bytes.Clone(query)
		r := build(t, nil, func(c *dns.Config) {
			c.Virtual = h.addresses
			c.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
				local, far := net.Pipe()
				far.Close()
				return &mumble{local, reply}, nil
			}
		})
		got, err := r.Answer(t.Context(), q)
		if !bytes.Equal(before, query) {
			t.Fatal("the query was changed")
		}
		if err != nil {
			return
		}
		if len(got) < 12 || len(got) > 65535 || !bytes.Equal(got[:2], query[:2]) || got[2]&0x80 == 0 || query[2]&0x80 != 0 {
			t.Fatalf("%x was answered with %x", query, got)
		}
		if own {
			var m mdns.Msg
			if err := m.Unpack(got); err != nil {
				t.Fatalf("%x was answered with %x: %v", query, got, err)
			}
			if !tcp && len(got) > 1232 {
				t.Fatalf("%d bytes over UDP", len(got))
			}
		}
	})
}
