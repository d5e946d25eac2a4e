package dns

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerSize = 12 // RFC 1035, section 4.1.1
	maxName    = 255
	maxMessage = 65535
)

// Bits of the header's second word.
const (
	bitQR      = 1 << 15
	bitTC      = 1 << 9
	bitRD      = 1 << 8
	bitRA      = 1 << 7
	bitAD      = 1 << 5
	bitCD      = 1 << 4
	maskOpcode = 0xf << 11
	maskRcode  = 0xf
)

var (
	errShort    = errors.New("dns: the message has no whole header")
	errResponse = errors.New("dns: the message is a response")
	errWire     = errors.New("dns: malformed message")
)

// query is the part of a query that deciding and answering takes.
type query struct {
	msg   []byte // as received
	id    uint16
	flags uint16
	qend  int // where the question section ends; headerSize: it could not be read

	name   string // in wire format, lower case: the key names are compared by
	host   string // in text, lower case, without the final dot; empty unless a host could be called so
	qtype  uint16
	qclass uint16

	edns    bool // RFC 6891
	udpSize uint16
	version uint8
	do      bool

	tcp bool
}

// parse reads a query. An error means that it cannot be replied to; a rcode
// other than success, that the reply is that.
func parse(msg []byte) (p query, rcode int, err error) {
	if len(msg) < headerSize {
		return p, 0, errShort
	}
	if len(msg) > maxMessage {
		return p, 0, errWire
	}
	p.msg = msg
	p.id = binary.BigEndian.Uint16(msg)
	p.flags = binary.BigEndian.Uint16(msg[2:])
	p.qend = headerSize
	if p.flags&bitQR != 0 {
		return p, 0, errResponse // replying to replies is how two resolvers talk forever
	}
	if p.flags&maskOpcode != dns.OpcodeQuery<<11 {
		return p, dns.RcodeNotImplemented, nil
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return p, dns.RcodeFormatError, nil // RFC 9619
	}
	if p.qend, err = p.readQuestion(); err != nil {
		p.qend = headerSize
		return p, dns.RcodeFormatError, nil
	}
	if err := p.readOptions(); err != nil {
		return p, dns.RcodeFormatError, nil
	}
	return p, dns.RcodeSuccess, nil
}

// readQuestion reads the question, whose name is uncompressed: there is nothing
// before it to point to. It returns where the question ends.
func (p *query) readQuestion() (int, error) {
	var (
		name [maxName]byte
		n    int
		off  = headerSize
	)
	hostlike := true
	for {
		if off >= len(p.msg) {
			return 0, errWire
		}
		size := int(p.msg[off])
		if size > 63 || n+1+size > maxName-1 && size > 0 || off+1+size > len(p.msg) {
			return 0, errWire // RFC 1035, section 2.3.4
		}
		name[n] = byte(size)
		n++
		off++
		if size == 0 {
			break
		}
		for _, c := range p.msg[off : off+size] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A' // RFC 4343
			}
			hostlike = hostlike && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')
			name[n] = c
			n++
		}
		off += size
	}
	if off+4 > len(p.msg) {
		return 0, errWire
	}
	p.name = string(name[:n])
	p.qtype = binary.BigEndian.Uint16(p.msg[off:])
	p.qclass = binary.BigEndian.Uint16(p.msg[off+2:])
	if hostlike && n > 1 {
		p.host = textOf(p.name)
	}
	return off + 4, nil
}

// textOf is the text of a name in wire format that needs no escaping.
func textOf(wire string) string {
	var b strings.Builder
	b.Grow(len(wire))
	for len(wire) > 1 {
		size := int(wire[0])
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(wire[1 : 1+size])
		wire = wire[1+size:]
	}
	return b.String()
}

// readOptions looks for the OPT record (RFC 6891, section 6.1.1: at most one).
func (p *query) readOptions() error {
	return walk(p.msg, p.qend, func(rr record) error {
		if rr.rtype != dns.TypeOPT || rr.section != additional {
			return nil
		}
		if p.edns || rr.name != 1 {
			return errWire
		}
		p.edns = true
		p.udpSize = rr.class
		p.version = uint8(rr.ttl >> 16)
		p.do = rr.ttl&(1<<15) != 0
		return nil
	})
}

type section uint8

const (
	answer section = iota
	authority
	additional
)

// record is one resource record's fixed part.
type record struct {
	section section
	name    int // bytes that the name takes
	rtype   uint16
	class   uint16
	ttl     uint32
	ttlAt   int // offset of the TTL in the message
}

// walk visits the records after the question section, which ends at off. It
// follows no compression pointer.
func walk(msg []byte, off int, visit func(record) error) error {
	for s := answer; s <= additional; s++ {
		for range binary.BigEndian.Uint16(msg[6+2*int(s):]) {
			start := off
			var err error
			if off, err = skipName(msg, off); err != nil {
				return err
			}
			if off+10 > len(msg) {
				return errWire
			}
			rr := record{
				section: s,
				name:    off - start,
				rtype:   binary.BigEndian.Uint16(msg[off:]),
				class:   binary.BigEndian.Uint16(msg[off+2:]),
				ttl:     binary.BigEndian.Uint32(msg[off+4:]),
				ttlAt:   off + 4,
			}
			off += 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
			if off > len(msg) {
				return errWire
			}
			if err := visit(rr); err != nil {
				return err
			}
		}
	}
	return nil
}

// skipName returns where the name at off ends.
func skipName(msg []byte, off int) (int, error) {
	for off < len(msg) {
		size := int(msg[off])
		switch {
		case size == 0:
			return off + 1, nil
		case size&0xc0 == 0xc0: // RFC 1035, section 4.1.4
			if off+2 > len(msg) {
				return 0, errWire
			}
			return off + 2, nil
		case size > 63:
			return 0, errWire
		}
		off += 1 + size
	}
	return 0, errWire
}

// appendName appends a host name in wire format. host is one that parse would
// give, or a canonical name of the policy.
func appendName(b []byte, host string) []byte {
	for label := range strings.SplitSeq(host, ".") {
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	return append(b, 0)
}
