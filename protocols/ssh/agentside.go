package ssh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// What either side is offered. All of it is in use by current programs; what has
// been broken, or is on its way out, is not there: no SHA-1, no CBC, no RC4, no
// finite-field Diffie-Hellman.
var (
	keyExchanges = []string{
		xssh.KeyExchangeMLKEM768X25519,
		xssh.KeyExchangeCurve25519, // also under its older name @libssh.org
		xssh.KeyExchangeECDHP256,
		xssh.KeyExchangeECDHP384,
	}
	ciphers = []string{
		xssh.CipherAES128GCM,
		xssh.CipherAES256GCM,
		xssh.CipherChaCha20Poly1305,
		xssh.CipherAES128CTR,
		xssh.CipherAES192CTR,
		xssh.CipherAES256CTR,
	}
	// The MACs that are not encrypt-then-MAC are for libssh2 before 1.11, which
	// knows no others.
	macs = []string{
		xssh.HMACSHA256ETM,
		xssh.HMACSHA512ETM,
		xssh.HMACSHA256,
		xssh.HMACSHA512,
	}
	keyAlgorithms = []string{
		xssh.KeyAlgoED25519, xssh.KeyAlgoSKED25519,
		xssh.KeyAlgoECDSA256, xssh.KeyAlgoECDSA384, xssh.KeyAlgoECDSA521, xssh.KeyAlgoSKECDSA256,
		xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256,
	}
)

const (
	// version begins as OpenSSH's does because its programs look for that before
	// they say that nobody reads any more (eow@openssh.com): `ssh build yes | head`
	// would never end.
	version = "SSH-2.0-OpenSSH_clawpatrol"

	maxLogin = 256 // bytes of a user name; as in the policy
)

func (h *Handler) algorithms() xssh.Config {
	return xssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs, RekeyThreshold: h.rekey}
}

// admission is what is known of an agent that has not been let in yet. Its fields
// are of the goroutine that runs the agent's handshake, but where a lock is named.
type admission struct {
	patience *time.Timer // what the agent has left of its time
	login    string      // the user name it first asked for
	seen     bool
	refused  error // why it is not let in
	told     bool  // that it has been told

	reaching sync.Once
	reached  chan struct{} // closed when one of the next two is set
	found    *link
	missed   error

	mu     sync.Mutex
	notice []string               // to be said when there is somebody to say it to; guarded by mu
	before xssh.ServerPreAuthConn // nil outside of authentication; guarded by mu
}

// maxNotices bounds what waits to be said to an agent.
const maxNotices = 16

// handshake makes the agent's connection: key exchange, authentication, and in
// the midst of that the upstream's, so that a failure there is a refusal here.
func (c *conversation) handshake() error {
	if !c.share.handshakes.Take(maxHandshakes) {
		return c.turnAway("too many connections are being made at once")
	}
	defer c.share.handshakes.Give()
	config, err := c.serverConfig()
	if err != nil {
		return err
	}
	c.reached = make(chan struct{})
	c.patience = time.AfterFunc(c.handler.patience.agent, func() { c.end(errTooSlow) })
	defer c.patience.Stop()
	defer context.AfterFunc(c.ctx, func() { _ = c.socket.Close() })()
	config.Ciphers = c.socket.preview()
	agent, opened, asked, err := xssh.NewServerConn(c.socket, config)
	if err == nil && c.refused == nil && agent.User() != c.login {
		err = errors.New("the user name changed")
		_ = agent.Close()
	}
	if err != nil {
		c.end(errAgentEnd)
		if c.refused != nil {
			return fmt.Errorf("refusing the agent: %w", c.refused)
		}
		if errors.Is(c.cause(), errTooSlow) {
			return errTooSlow
		}
		return fmt.Errorf("SSH handshake with the agent: %w", err)
	}
	c.socket.joinFor(agent.Conn)
	c.agent, c.opened, c.asked, c.upstream = agent, opened, asked, c.found
	return nil
}

var errTooSlow = fmt.Errorf("SSH handshake with the agent: not done within %v", handshakeTimeout)

// serverConfig is what the agent meets. Whatever it authenticates with is
// accepted unseen: the channel says who it is.
func (c *conversation) serverConfig() (*xssh.ServerConfig, error) {
	plain, certificate, err := c.handler.keys.HostSigners(c.endpoint.Ref(), c.host)
	if err != nil {
		return nil, fmt.Errorf("making the host key of %s: %w", c.endpoint.Ref(), err)
	}
	config := &xssh.ServerConfig{
		Config:                  c.handler.algorithms(),
		PublicKeyAuthAlgorithms: keyAlgorithms,
		NoClientAuth:            true,
		NoClientAuthCallback:    func(m xssh.ConnMetadata) (*xssh.Permissions, error) { return nil, c.admit(m.User()) },
		PasswordCallback:        func(m xssh.ConnMetadata, _ []byte) (*xssh.Permissions, error) { return nil, c.admit(m.User()) },
		PublicKeyCallback: func(m xssh.ConnMetadata, _ xssh.PublicKey) (*xssh.Permissions, error) {
			return nil, c.admit(m.User())
		},
		KeyboardInteractiveCallback: func(m xssh.ConnMetadata, _ xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
			return nil, c.admit(m.User())
		},
		PreAuthConnCallback: c.setBefore,
		MaxAuthTries:        1, // what is refused is refused, by any method
		ServerVersion:       version,
	}
	config.AddHostKey(certificate)
	config.AddHostKey(plain)
	return config, nil
}

// admit lets the agent in as login once the upstream has been reached.
func (c *conversation) admit(login string) error {
	if !c.seen {
		c.seen, c.login = true, login
		c.refused = c.reach(login)
	} else if login != c.login && c.refused == nil {
		c.refused = &proxy.Refusal{Code: proxy.CodeDenied, Reason: "the user name changed"}
	}
	if c.refused == nil {
		c.setBefore(nil)
		return nil
	}
	if c.told {
		return c.refused
	}
	c.told = true
	return &xssh.BannerError{Err: c.refused, Message: "clawpatrol: " + reasonOf(c.refused) + "\r\n"}
}

// reach waits for the upstream, not at the agent's expense.
func (c *conversation) reach(login string) error {
	if len(login) > maxLogin {
		return &proxy.Refusal{Code: proxy.CodeDenied, Reason: fmt.Sprintf("a user name has at most %d bytes", maxLogin)}
	}
	if !c.patience.Stop() {
		return errTooSlow
	}
	defer c.patience.Reset(c.handler.patience.agent)
	c.startReaching(login)
	select {
	case <-c.reached:
		return c.missed
	case <-c.ctx.Done():
		return c.cause()
	}
}

// begin is called with the agent's first bytes. Where its user name makes no
// difference the upstream is reached while keys are exchanged here.
func (c *conversation) begin() {
	if credentials := c.flow.Match.Credentials; len(credentials) == 1 && credentials[0].User != "" && c.endpoint.SSH.Jump == nil {
		c.startReaching(credentials[0].User)
	}
}

func (c *conversation) startReaching(login string) {
	c.reaching.Do(func() {
		c.missed = errors.New("the gateway failed") // what is left of a panic
		c.run(func() {
			defer close(c.reached)
			c.found, c.missed = c.connect(login)
		})
	})
}

// setBefore remembers whom notices go to, and says those that wait.
func (c *conversation) setBefore(p xssh.ServerPreAuthConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = p
	if p != nil {
		c.say(c.notice...)
		c.notice = nil
	}
}

// say is called with mu held. An agent that does not listen is left behind.
func (c *conversation) say(texts ...string) {
	_ = c.socket.SetWriteDeadline(time.Now().Add(goodbyePatience))
	for _, text := range texts {
		_ = c.before.SendAuthBanner(text)
	}
	_ = c.socket.SetWriteDeadline(time.Time{})
}

// notify says something to an agent that waits to be let in.
func (c *conversation) notify(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before != nil {
		c.say(text)
	} else if len(c.notice) < maxNotices {
		c.notice = append(c.notice, text)
	}
}
