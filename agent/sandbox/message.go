package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// maxMessage bounds one message, in bytes. The largest is a plan.
const maxMessage = 128 << 10

// lease is what a run gets of the registration's addresses.
type lease struct {
	Addresses []netip.Addr `json:"addresses"` // one of each family the tunnel carries
	DNS       []netip.Addr `json:"dns"`
	MTU       int          `json:"mtu"`             // bytes
	Relay     bool         `json:"relay,omitempty"` // the packets go over the connection, see relayLink
}

// linkKind says what the descriptor of an interface is.
type linkKind string

const (
	linkTUN    linkKind = "tun"    // a TUN with IFF_VNET_HDR
	linkPacket linkKind = "packet" // an AF_PACKET socket on the far end of a veth pair
	linkRelay  linkKind = "relay"  // no descriptor: what follows on the connection are packets
)

// message is everything that front, daemon and keeper tell each other. Which
// fields are set says what it is.
type message struct {
	// front to daemon
	Run  bool     `json:"run,omitempty"`  // asks for a lease
	End  bool     `json:"end,omitempty"`  // asks the daemon to end, if it serves nobody
	Link linkKind `json:"link,omitempty"` // the interface, with its descriptor; keeper to front too

	// daemon to front
	Lease *lease `json:"lease,omitempty"`

	// front to keeper
	Plan   *plan `json:"plan,omitempty"`
	Signal int   `json:"signal,omitempty"`

	// daemon to front, front to keeper
	Linked bool `json:"linked,omitempty"`

	// keeper to front
	Started bool `json:"started,omitempty"`

	// from any of them
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"code,omitempty"`
}

// err returns the error in m, or nil.
func (m message) err() error {
	if m.Error == "" {
		return nil
	}
	return &StartError{max(m.Code, codeFailed), errors.New(m.Error), m.Hint}
}

// failure is err as a message.
func failure(err error) message {
	m := message{Error: err.Error(), Hint: agent.HintOf(err), Code: codeFailed}
	if s := (*StartError)(nil); errors.As(err, &s) {
		m.Code = s.Code
	}
	return m
}

// send writes m, and with it a descriptor where fd is not negative. c is of type
// SOCK_SEQPACKET: one message, one packet.
func send(c *net.UnixConn, m message, fd int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("a message of %d bytes is larger than %d", len(b), maxMessage)
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_, _, err = c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one message, and the descriptor that came with it: -1 for none.
// Whoever sends more than one loses them all.
func receive(c *net.UnixConn) (m message, fd int, err error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return m, -1, err
	}
	fds, err := descriptors(oob[:oobn])
	if err != nil || len(fds) > 1 || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(fds)
		return m, -1, errors.New("a message that is too large or has too many descriptors")
	}
	if n == 0 {
		closeAll(fds)
		return m, -1, io.EOF
	}
	if err := json.Unmarshal(b[:n], &m); err != nil {
		closeAll(fds)
		return m, -1, fmt.Errorf("reading a message: %w", err)
	}
	if len(fds) == 1 {
		return m, fds[0], nil
	}
	return m, -1, nil
}

// maxRequest bounds what the host's daemon reads of a run that is not its own
// user's, in bytes.
const maxRequest = 1 << 10

// receiveRequest is receive for whoever does not trust the sender: it takes no
// descriptor. The kernel closes one that comes all the same before it returns from
// the read, whatever the deadline, and that may take as long as whoever made it
// wants (FUSE, SO_LINGER). Since Linux 6.16 the host's socket refuses those that
// send one; before, only that sender's connection may wait for this.
func receiveRequest(c *net.UnixConn) (m message, err error) {
	b := make([]byte, maxRequest+1)
	n, err := c.Read(b)
	if err != nil {
		return m, err
	}
	if n > maxRequest {
		return m, errors.New("a request that is too large")
	}
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return m, fmt.Errorf("reading a request: %w", err)
	}
	return m, nil
}

// maxDescriptors is SCM_MAX_FD of unix(7).
const maxDescriptors = 253

func descriptors(oob []byte) (fds []int, err error) {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, c := range cmsgs {
		if c.Header.Level != unix.SOL_SOCKET || c.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		more, err := unix.ParseUnixRights(&c)
		if err != nil {
			return fds, err
		}
		for _, fd := range more {
			unix.CloseOnExec(fd)
		}
		fds = append(fds, more...)
	}
	return fds, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// pair returns two connected sockets: one to use, and one for a child.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	c, err := connOf(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
		return nil, nil, err
	}
	return c, os.NewFile(uintptr(fds[1]), "socket"), nil
}

// connOf makes a connection of a socket, which it takes over.
func connOf(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a UNIX socket")
	}
	return u, nil
}
