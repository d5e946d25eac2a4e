package postgres

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/proxy"
)

// The slots of a postgres credential.
const (
	slotPassword    = "password"
	slotCertificate = "client_certificate"
	slotKey         = "client_key"
)

const (
	// maxGreeting is what an upstream may say before it is ready, in bytes.
	maxGreeting = 256 << 10

	// maxGreetingMessage is one message of it. PostgreSQL's clients take 30000
	// for an error (MAX_ERRLEN in fe-connect.c).
	maxGreetingMessage = 64 << 10
)

// upstream is a connection that is logged in.
type upstream struct {
	conn   net.Conn
	source io.Reader // what conn sends, from after ReadyForQuery on
	told   []byte    // ParameterStatus and NoticeResponse messages, as they came
	status byte      // of the transaction
	key    cancelKey // of the session there
	remote netip.AddrPort
	server map[string]string // parameters it reported
}

// close ends the connection.
func (u *upstream) close() { _ = u.conn.Close() }

// means is how to authenticate.
type means struct {
	password    string
	certificate *tls.Certificate
}

// meansOf takes the secrets out of a grant. The error is a *proxy.Refusal.
func meansOf(g *proxy.Grant) (*means, error) {
	m := &means{}
	password, err := g.Secret(slotPassword)
	if err == nil {
		m.password = string(password.Reveal())
	}
	certificate, noCertificate := g.Secret(slotCertificate)
	key, noKey := g.Secret(slotKey)
	switch {
	case noCertificate != nil && noKey != nil:
		if err != nil {
			return nil, err
		}
		return m, nil
	case noCertificate != nil:
		return nil, noCertificate
	case noKey != nil:
		return nil, noKey
	}
	pair, err := tls.X509KeyPair(certificate.Reveal(), key.Reveal())
	if err != nil { // the error may quote what is stored
		return nil, &proxy.Refusal{Code: proxy.CodeSecretMissing, Reason: fmt.Sprintf("client_certificate and client_key of credential %s are no pair: an operator has to store them again", g.Credential.Ref())}
	}
	m.certificate = &pair
	return m, nil
}

// require lists the ways of authentication that are good enough, as libpq's
// require_auth does. The password in clear goes over verified TLS only. An
// upstream that lets the gateway in without asking is not logged in to (I21).
func (m *means) require(encrypted bool) string {
	var ways []string
	if m.password != "" {
		ways = append(ways, "scram-sha-256", "md5")
		if encrypted {
			ways = append(ways, "password")
		}
	}
	if m.certificate != nil {
		ways = append(ways, "none") // sslcertmode=require sees to it that it was asked for
	}
	return strings.Join(ways, ",")
}

// loginConfig is where every connection upstream starts from. pgconn insists on
// having parsed it, and reads the environment for what is not named; connect
// overwrites whatever matters.
func loginConfig() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig("host=localhost port=5432 user=nobody password=none dbname=none sslmode=disable passfile=/dev/null target_session_attrs=any")
	if err != nil {
		return nil, fmt.Errorf("postgres: preparing connections upstream, for which the PG* environment variables are read: %w", err)
	}
	return config, nil
}

// connect logs in to the endpoint as user. The error is fit for the agent where it
// is a *fatal.
func (c *conversation) connect(user, database string, settings map[string]string, m *means) (*upstream, error) {
	ctx, cancel := context.WithTimeout(c.ctx, upstreamTimeout)
	defer cancel()
	port := c.flow.Match.Port
	up := &upstream{}
	greeting := &greetingReader{}
	config := c.handler.login.Copy()
	config.Host, config.Port = c.host, port
	config.User, config.Password, config.Database = user, m.password, database
	config.RuntimeParams = settings
	config.Fallbacks = nil
	config.ConnectTimeout = 0
	config.MaxProtocolMessageBodyLen = maxGreetingMessage
	config.MinProtocolVersion, config.MaxProtocolVersion = "3.0", "3.0"
	config.SSLNegotiation, config.SSLCertMode = "postgres", "allow"
	config.ChannelBinding = "prefer"
	config.TLSConfig = nil
	config.AfterNetConnect, config.ValidateConnect, config.AfterConnect = nil, nil, nil
	config.OnNotice, config.OnNotification, config.OAuthTokenProvider = nil, nil, nil
	config.LookupFunc = func(context.Context, string) ([]string, error) { return []string{c.host}, nil }
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := c.handler.dial(ctx, c.endpoint, c.host, port, netip.AddrPort{})
		if err == nil {
			up.remote = remoteOf(conn)
		}
		return conn, err
	}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		greeting.from = r
		return pgproto3.NewFrontend(greeting, w)
	}
	encrypted := !c.endpoint.Postgres.DisableTLS
	if encrypted {
		config.TLSConfig = c.upstreamTLS()
		if m.certificate != nil {
			config.TLSConfig.Certificates = []tls.Certificate{*m.certificate}
			config.SSLCertMode = "require"
		}
	} else if m.certificate != nil {
		m = &means{password: m.password}
	}
	if config.RequireAuth = m.require(encrypted); config.RequireAuth == "" {
		return nil, &fatal{code: invalidAuthorization, message: "a client certificate needs TLS, which the endpoint's policy disables", class: "authentication"}
	}

	hide := newMasker(m.password)
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, c.explain(ctx, err, hide)
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, c.explain(ctx, err, hide)
	}
	up.conn, up.source, up.status = hijacked.Conn, greeting.from, hijacked.TxStatus
	up.key = cancelKey{pid: hijacked.PID, secret: hijacked.SecretKey}
	up.server = hijacked.ParameterStatuses
	up.told = hide.messages(greeting.told)
	return up, nil
}

// upstreamTLS is the configuration of connections to the endpoint (I04).
func (c *conversation) upstreamTLS() *tls.Config {
	return protocols.UpstreamTLS(c.endpoint, c.host, 0, alpn)
}

// authFailure explains what pgconn says of authentication that failed on our
// side. Its errors have no types.
func authFailure(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "server refused TLS connection"):
		return "does not speak TLS, which the endpoint's policy requires"
	case strings.Contains(text, "did not complete authentication"):
		return "lets the gateway in without asking for its credential (pg_hba.conf says \"trust\"?): nothing is sent there"
	case strings.Contains(text, "authentication method requirement"):
		return "asks for a way of authentication that the credential does not have, or for a password in clear without TLS"
	case strings.Contains(text, "sslcertmode check failed"):
		return "did not ask for the client certificate"
	case strings.Contains(text, "SASL"), strings.Contains(text, "SCRAM"):
		return "did not complete SCRAM as the holder of the password's verifier would"
	}
	return ""
}

// remoteOf is where conn goes, or invalid.
func remoteOf(conn net.Conn) netip.AddrPort {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		a := tcp.AddrPort()
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return netip.AddrPort{}
}

// greetingReader passes what an upstream sends before it is ready, never more
// than one message at a time: what comes after ReadyForQuery stays in from. It
// keeps what the agent is to read of it too.
type greetingReader struct {
	from io.Reader // set when the connection is made
	told []byte

	head [5]byte
	have int // of head, that have been read
	rest int // bytes of the message's body to come
	read int // bytes in all
	keep bool
}

var errGreeting = errors.New("the upstream says too much before it is ready")

// Read reads into p no more than what is left of the message. Callers ask for
// more in one go than a header has, so a header never lacks room.
func (g *greetingReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	limit := g.rest
	inHead := g.rest == 0
	if inHead {
		limit = len(g.head) - g.have
	}
	n, err := g.from.Read(p[:min(limit, len(p))])
	if g.read += n; g.read > maxGreeting {
		return 0, errGreeting
	}
	if !inHead {
		if g.rest -= n; g.keep {
			g.told = append(g.told, p[:n]...)
		}
		return n, err
	}
	if g.have += copy(g.head[g.have:], p[:n]); g.have == len(g.head) {
		length := binary.BigEndian.Uint32(g.head[1:])
		if length < 4 || length > maxGreetingMessage {
			return 0, errGreeting
		}
		g.have, g.rest = 0, int(length-4)
		if g.keep = g.head[0] == 'S' || g.head[0] == 'N'; g.keep {
			g.told = append(g.told, g.head[:]...)
		}
	}
	return n, err
}
