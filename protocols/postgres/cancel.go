package postgres

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Lengths of the secret in a cancel key, in bytes: 4 in protocol 3.0, up to 256
// since 3.2.
const (
	shortKey = 4
	longKey  = 32
)

// cancelKey is what a session is named by in a cancel request.
type cancelKey struct {
	pid    uint32
	secret []byte
}

// keyring holds the sessions by the process ID that their agents were told. It is
// not the upstream's, which agents never see.
type keyring struct {
	mu sync.Mutex
	of map[uint32]*session // guarded by mu
}

// add gives s a key of its own.
func (k *keyring) add(s *session, minor uint32) cancelKey {
	n := shortKey
	if minor >= 2 {
		n = longKey
	}
	key := cancelKey{secret: make([]byte, n)}
	_, _ = rand.Read(key.secret) // never fails
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = make(map[uint32]*session)
	}
	for taken := true; taken || key.pid == 0; { // as many as there are connections at most are
		var b [4]byte
		_, _ = rand.Read(b[:])
		key.pid = binary.BigEndian.Uint32(b[:]) >> 1 // drivers have it in an int32
		_, taken = k.of[key.pid]
	}
	s.key = key
	k.of[key.pid] = s
	return key
}

func (k *keyring) remove(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of[s.key.pid] == s {
		delete(k.of, s.key.pid)
	}
}

// find returns the session that key names, of this registration at this endpoint
// only.
func (k *keyring) find(key *cancelKey, id registry.ID, endpoint *policy.Endpoint) *session {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.of[key.pid]
	if s == nil || s.flow.Registration != id || s.endpoint.Ref() != endpoint.Ref() || subtle.ConstantTimeCompare(s.key.secret, key.secret) != 1 {
		return nil
	}
	return s
}

// cancelRequest passes on a cancel request. The agent is told nothing, as by
// PostgreSQL; its connection closes when the upstream has taken it.
func (c *conversation) cancelRequest(key *cancelKey) error {
	if !c.share.cancels.Allow() {
		return fmt.Errorf("postgres: too many cancel requests")
	}
	s := c.handler.keys.find(key, c.flow.Registration, c.endpoint)
	if s == nil {
		c.refuse("cancel", "the cancel request names no session of this registration")
		return fmt.Errorf("postgres: a cancel request names no session of its registration")
	}
	grant, err := c.flow.Authorize(c.ctx, proxy.Action{Summary: "cancel", Choose: s.same})
	if err != nil {
		return err
	}
	if !s.covers(grant) {
		grant.Finish(registry.ActionResult{Status: proxy.CodePolicyChanged})
		return fmt.Errorf("postgres: the session to cancel has another credential")
	}
	ctx, cancel := context.WithTimeout(c.ctx, upstreamTimeout)
	defer cancel()
	if err := c.deliverCancel(ctx, s); err != nil {
		why := c.explain(ctx, err, nil)
		grant.Finish(registry.ActionResult{Status: why.status()})
		c.warn("a cancel request could not be delivered", "class", why.status())
		return fmt.Errorf("postgres: delivering a cancel request: %s", why.message)
	}
	grant.Finish(registry.ActionResult{Status: "delivered"})
	return nil
}

// deliverCancel connects to where the session is and sends its key there, under
// the same TLS as the session has: the key is a secret of the upstream's.
func (c *conversation) deliverCancel(ctx context.Context, s *session) error {
	conn, err := c.handler.dial(ctx, c.endpoint, c.host, c.flow.Match.Port, s.up.remote)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	defer func() { _ = conn.Close() }()
	if !c.endpoint.Postgres.DisableTLS {
		if conn, err = c.secure(ctx, conn); err != nil {
			return err
		}
	}
	request, err := (&pgproto3.CancelRequest{ProcessID: s.up.key.pid, SecretKey: s.up.key.secret}).Encode(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	// It closes the connection when the signal has been sent. How, is of no account.
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, maxStartupPacket))
	return ctx.Err()
}

// secure asks the upstream for TLS, and verifies it (I04).
func (c *conversation) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != 'S' {
		return nil, fmt.Errorf("server refused TLS connection")
	}
	encrypted := tls.Client(conn, c.upstreamTLS())
	return encrypted, encrypted.HandshakeContext(ctx)
}
