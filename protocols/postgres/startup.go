package postgres

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// The codes that take a version's place in the first message (PostgreSQL's
// documentation, section "Message Formats").
const (
	codeCancel = 1234<<16 | 5678
	codeSSL    = 1234<<16 | 5679
	codeGSS    = 1234<<16 | 5680

	major       = 3
	newestMinor = 2

	tlsHandshake = 0x16 // the content type of a ClientHello's record (RFC 8446, section 5.1)
	alpn         = "postgresql"

	maxStartupPacket = 10000 // bytes: MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h
	maxCancelKey     = 256   // bytes: likewise, of protocol 3.2
	maxSettings      = 256   // parameters of a startup message
)

// opening is what an agent asks for in its first message.
type opening struct {
	code     uint32 // codeCancel, codeSSL, codeGSS, or a version
	cancel   *cancelKey
	settings []setting
}

// setting is one parameter of a startup message.
type setting struct{ name, value string }

// version returns the protocol version asked for.
func (o *opening) version() (major, minor uint32) { return o.code >> 16, o.code & 0xffff }

// get returns a parameter; the last one counts, as with PostgreSQL.
func (o *opening) get(name string) string {
	value := ""
	for _, s := range o.settings {
		if s.name == name {
			value = s.value
		}
	}
	return value
}

// parseOpening reads a first message, its length left out.
func parseOpening(body []byte) (*opening, error) {
	if len(body) < 4 {
		return nil, protocolError("invalid length of startup packet")
	}
	o := &opening{code: binary.BigEndian.Uint32(body)}
	body = body[4:]
	switch o.code {
	case codeSSL, codeGSS:
		if len(body) != 0 {
			return nil, protocolError("invalid length of startup packet")
		}
		return o, nil
	case codeCancel:
		if len(body) < 8 || len(body) > 4+maxCancelKey {
			return nil, protocolError("invalid length of startup packet")
		}
		o.cancel = &cancelKey{pid: binary.BigEndian.Uint32(body), secret: bytes.Clone(body[4:])}
		return o, nil
	}
	if o.code>>16 != major {
		asked, minor := o.version()
		return nil, &fatal{code: "0A000", message: fmt.Sprintf("unsupported frontend protocol %d.%d: the gateway supports 3.0 to 3.%d", asked, minor, newestMinor)}
	}
	for {
		name, rest, ok := bytes.Cut(body, []byte{0})
		if !ok {
			return nil, protocolError("invalid startup packet layout: expected terminator as last byte")
		}
		if len(name) == 0 {
			if len(rest) != 0 {
				return nil, protocolError("invalid startup packet layout: expected terminator as last byte")
			}
			return o, nil
		}
		value, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(o.settings) == maxSettings {
			return nil, protocolError("invalid startup packet layout")
		}
		o.settings = append(o.settings, setting{string(name), string(value)})
		body = rest
	}
}

// readOpening reads exactly one first message: what follows it may be TLS, and
// must not have been read in plaintext.
func readOpening(r io.Reader) (*opening, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 8 || n > maxStartupPacket {
		return nil, protocolError("invalid length of startup packet")
	}
	body := make([]byte, n-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return parseOpening(body)
}

// negotiate agrees with the agent on TLS, and returns its startup message or
// cancel request.
func (c *conversation) negotiate() (*opening, error) {
	var first [1]byte
	if _, err := io.ReadFull(c.conn, first[:]); err != nil {
		return nil, err
	}
	encrypted, gss := false, false
	c.conn = &replayed{Conn: c.conn, first: first[:]}
	if first[0] == tlsHandshake { // sslnegotiation=direct
		agreed, err := c.startTLS()
		if err != nil {
			return nil, err
		}
		if agreed != alpn {
			// As PostgreSQL does: it keeps what was meant for another protocol out.
			return nil, protocolError("received direct SSL connection request without ALPN protocol negotiation extension")
		}
		encrypted = true
	}
	for {
		o, err := readOpening(c.conn)
		if err != nil {
			return nil, err
		}
		switch {
		case o.code == codeSSL && !encrypted:
			if _, err := c.conn.Write([]byte{'S'}); err != nil {
				return nil, err
			}
			if _, err := c.startTLS(); err != nil {
				return nil, err
			}
			encrypted = true
		case o.code == codeGSS && !gss:
			if _, err := c.conn.Write([]byte{'N'}); err != nil {
				return nil, err
			}
			gss = true
		case o.code == codeSSL || o.code == codeGSS:
			return nil, protocolError("encryption was asked for twice")
		default:
			return o, nil
		}
	}
}

// startTLS answers the agent's handshake with a leaf of the local CA, and returns
// the protocol agreed on by ALPN.
func (c *conversation) startTLS() (string, error) {
	misdirected := ""
	agent := tls.Server(c.conn, &tls.Config{
		MinVersion:             tls.VersionTLS12,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true, // as PostgreSQL's
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" && !strings.EqualFold(hello.ServerName, c.host) {
				misdirected = hello.ServerName
				return nil, fmt.Errorf("the TLS server name is not %s", c.host)
			}
			return c.handler.ca.Leaf(c.host)
		},
	})
	if err := agent.HandshakeContext(c.ctx); err != nil {
		if misdirected != "" {
			c.refuse("TLS handshake", fmt.Sprintf("the TLS server name %q is not the endpoint's host %s", misdirected, c.host))
		}
		return "", fmt.Errorf("TLS handshake with the agent: %w", err)
	}
	c.conn = agent
	return agent.ConnectionState().NegotiatedProtocol, nil
}

// replayed is a connection of which a little has been read already.
type replayed struct {
	net.Conn
	first []byte // owned by the reader
}

func (r *replayed) Read(p []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

func (r *replayed) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// greeting is what an agent that has been let in reads before its first
// statement. told is what the upstream reported while it let the gateway in.
func (o *opening) greeting(told []byte, key cancelKey, status byte) []byte {
	var out []byte
	var unknown []string
	for _, s := range o.settings {
		if strings.HasPrefix(s.name, "_pq_.") {
			unknown = append(unknown, s.name)
		}
	}
	if _, minor := o.version(); minor > newestMinor || len(unknown) > 0 {
		out, _ = (&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: min(minor, newestMinor), UnrecognizedOptions: unknown}).Encode(out)
	}
	out, _ = (&pgproto3.AuthenticationOk{}).Encode(out)
	out = append(out, told...)
	out, _ = (&pgproto3.BackendKeyData{ProcessID: key.pid, SecretKey: key.secret}).Encode(out)
	out, _ = (&pgproto3.ReadyForQuery{TxStatus: status}).Encode(out)
	return out
}
