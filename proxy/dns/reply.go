package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

const (
	// virtualTTL bounds how long an agent keeps an address after its
	// registration has lost the host.
	virtualTTL = 60
	// maxUDP is what we announce and what we send: no path that carries the
	// tunnel fragments it (DNS flag day 2020).
	maxUDP = 1232
	// minUDP is what every agent takes (RFC 1035, section 4.2.1).
	minUDP = 512
	// sizeOPT is an OPT record without options (RFC 6891, section 6.1.2).
	sizeOPT = 11
	// maxEDEText bounds the text of an extended error.
	maxEDEText = 100
)

// extendedError tells people at `dig` why (RFC 8914).
type extendedError struct {
	code uint16
	text string
}

func edePolicy(text string) *extendedError {
	return &extendedError{dns.ExtendedErrorCodeProhibited, text}
}

func edeNoAnswer(err error) *extendedError {
	text := "the gateway's resolvers gave no answer"
	if errors.Is(err, errBusy) {
		text = "too many queries at once"
	}
	return &extendedError{dns.ExtendedErrorCodeNoReachableAuthority, text}
}

// limit is the most bytes the reply may take.
func (p *query) limit() int {
	switch {
	case p.tcp:
		return maxMessage
	case !p.edns:
		return minUDP
	}
	return min(max(int(p.udpSize), minUDP), maxUDP)
}

// begin starts a reply: header and question, as they were asked. The counts of
// records are zero.
func (p *query) begin(rcode, room int) []byte {
	b := make([]byte, 0, p.qend+room+sizeOPT+6+maxEDEText)
	b = binary.BigEndian.AppendUint16(b, p.id)
	b = binary.BigEndian.AppendUint16(b, p.flags&(maskOpcode|bitRD|bitCD)|bitQR|bitRA|uint16(rcode&maskRcode))
	questions := uint16(0)
	if p.qend > headerSize {
		questions = 1
	}
	b = binary.BigEndian.AppendUint16(b, questions)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, p.msg[headerSize:p.qend]...)
}

// count adds n to the number of records of a section.
func count(b []byte, s section, n uint16) {
	at := b[6+2*int(s):]
	binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+n)
}

// end completes a reply: the OPT record if the query had one, and truncation.
// RFC 2181, section 9: what does not fit is left out whole, and TC says so.
func (p *query) end(b []byte, rcode int, ede *extendedError) []byte {
	size := len(b)
	if p.edns {
		size += sizeOPT
	}
	if size > p.limit() {
		b = b[:p.qend]
		b[2] |= bitTC >> 8
		clear(b[6:headerSize])
	}
	if !p.edns {
		return b
	}
	count(b, additional, 1)
	b = append(b, 0, 0, byte(dns.TypeOPT)) // root name, type
	b = binary.BigEndian.AppendUint16(b, maxUDP)
	b = append(b, byte(rcode>>4), 0) // RFC 6891, section 6.1.3: upper bits, version 0
	flags := uint16(0)
	if p.do {
		flags = 1 << 15 // RFC 3225, section 3: copied
	}
	b = binary.BigEndian.AppendUint16(b, flags)
	if ede == nil {
		return append(b, 0, 0)
	}
	text := ede.text[:min(len(ede.text), maxEDEText)]
	if len(b)+6+len(text)+2 > p.limit() {
		return append(b, 0, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(6+len(text)))
	b = binary.BigEndian.AppendUint16(b, dns.EDNS0EDE)
	b = binary.BigEndian.AppendUint16(b, uint16(2+len(text)))
	b = binary.BigEndian.AppendUint16(b, ede.code)
	return append(b, text...)
}

// fail is a reply without records.
func (p *query) fail(rcode int, ede *extendedError) []byte {
	return p.end(p.begin(rcode, 0), rcode, ede)
}

// appendRecord appends a record that belongs to the question's name.
func appendRecord(b []byte, rtype uint16, ttl uint32, rdata []byte) []byte {
	b = append(b, 0xc0, headerSize) // pointer to the question's name
	b = binary.BigEndian.AppendUint16(b, rtype)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rdata)))
	return append(b, rdata...)
}

// one is a reply with one record, of the type asked for unless said otherwise.
func (p *query) one(rtype uint16, rdata []byte) []byte {
	b := p.begin(dns.RcodeSuccess, 12+len(rdata))
	b = appendRecord(b, rtype, virtualTTL, rdata)
	count(b, answer, 1)
	return p.end(b, dns.RcodeSuccess, nil)
}

// address is the reply to A or AAAA; without a valid a there is no such record.
func (p *query) address(a netip.Addr) []byte {
	if !a.IsValid() {
		return p.none(dns.RcodeSuccess)
	}
	if a.Is4() {
		v4 := a.As4()
		return p.one(dns.TypeA, v4[:])
	}
	v6 := a.As16()
	return p.one(dns.TypeAAAA, v6[:])
}

// none says that there is no such record, or with NXDOMAIN no such name, and for
// how long: the SOA is ours, at the name itself (RFC 2308, section 3).
func (p *query) none(rcode int) []byte {
	rdata := []byte{0xc0, headerSize, 0} // MNAME: the name; RNAME: nobody
	for _, v := range []uint32{1, 3600, 600, 86400, virtualTTL} {
		rdata = binary.BigEndian.AppendUint32(rdata, v)
	}
	b := p.begin(rcode, 12+len(rdata))
	b = appendRecord(b, dns.TypeSOA, virtualTTL, rdata)
	count(b, authority, 1)
	return p.end(b, rcode, nil)
}

// any is the reply to ANY (RFC 8482, section 4.2).
func (p *query) any() []byte {
	return p.one(dns.TypeHINFO, []byte("\x07RFC8482\x00"))
}

// cached is the reply made of an entry: its records, older by now.
func (p *query) cached(e *entry, now time.Time) []byte {
	records := e.wire[p.qend:] // the names are equal, so are their lengths
	b := p.begin(e.rcode, len(records))
	copy(b[6:headerSize], e.wire[6:headerSize])
	// RFC 6840, section 5.8: AD only to those who know it.
	if e.ad && (p.do || p.flags&bitAD != 0) {
		b[3] |= bitAD
	}
	b = append(b, records...)
	age := uint32(max(0, now.Sub(e.stored)) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(b[at:])
		binary.BigEndian.PutUint32(b[at:], ttl-min(ttl, age))
	}
	return p.end(b, e.rcode, nil)
}

// entry is an answer of the operator's resolvers. Immutable.
type entry struct {
	wire    []byte // header and question first; no OPT
	ttls    []int  // offsets of the records' TTLs
	err     error  // could not be answered; nothing else is set but the times
	rcode   int    // NOERROR or NXDOMAIN
	ad      bool
	stored  time.Time
	expires time.Time // not after stored: not to be cached
}

// withoutName is the answer to a question of another type about a host that has
// addresses from us: the name exists, whatever the world knows of it.
func (e *entry) withoutName() *entry {
	if e.rcode != dns.RcodeNameError {
		return e
	}
	n := *e
	n.rcode = dns.RcodeSuccess
	n.ad = false
	return &n
}
