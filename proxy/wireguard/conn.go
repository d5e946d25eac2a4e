package wireguard

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Conn is an agent's TCP connection. LocalAddr is where the agent thinks it
// goes and RemoteAddr its tunnel address, both *net.TCPAddr. Errors are those of
// a *net.TCPConn: errors.Is finds syscall.ECONNRESET after the agent's RST,
// os.ErrDeadlineExceeded and net.ErrClosed.
//
// Conn has neither ReadFrom nor WriteTo, so io.CopyBuffer uses the buffer it is
// given. Towards a Conn 32 KiB is a good size; 64 KiB and more halve the
// throughput.
type Conn struct {
	tcp           *gonet.TCPConn
	ep            tcpip.Endpoint
	local, remote *net.TCPAddr

	closed  atomic.Bool
	release sync.Once
	done    func() // once, when closed
	freed   sync.Once
	free    func() // once, when netstack has nothing of it any more
}

var _ net.Conn = (*Conn)(nil)

func newConn(c *gonet.TCPConn, ep tcpip.Endpoint, id stack.TransportEndpointID, done, free func()) *Conn {
	return &Conn{
		tcp:    c,
		ep:     ep,
		local:  &net.TCPAddr{IP: net.IP(id.LocalAddress.AsSlice()), Port: int(id.LocalPort)},
		remote: &net.TCPAddr{IP: net.IP(id.RemoteAddress.AsSlice()), Port: int(id.RemotePort)},
		done:   done,
		free:   free,
	}
}

// Read reads what the agent has sent. After the agent's FIN it returns io.EOF.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.tcp.Read(b)
	return n, c.translate("read", err)
}

// Write sends to the agent. It returns when netstack has taken all of b.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.tcp.Write(b)
	return n, c.translate("write", err)
}

// Close sends FIN after what was written, or RST where the agent has sent data
// that was never read, as the kernel does. Reads and writes in progress return.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	c.ep.Close()
	c.release.Do(c.done)
	linger(c.ep, func() { c.freed.Do(c.free) })
	return nil
}

// Abort closes the connection with RST and forgets what was not sent yet. It is
// how a reset by the upstream reaches the agent as one, and may be called
// instead of Close, before it or after it.
func (c *Conn) Abort() {
	c.closed.Store(true)
	c.ep.Abort()
	c.release.Do(c.done)
	c.freed.Do(c.free)
}

// CloseRead drops what the agent sends from now on.
func (c *Conn) CloseRead() error {
	return c.shutdown(tcpip.ShutdownRead)
}

// CloseWrite sends FIN; the agent may go on sending.
func (c *Conn) CloseWrite() error {
	return c.shutdown(tcpip.ShutdownWrite)
}

func (c *Conn) shutdown(how tcpip.ShutdownFlags) error {
	if err := c.ep.Shutdown(how); err != nil {
		return c.translate("close", netError(err))
	}
	return nil
}

// LocalAddr is the destination the agent dialled.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the agent's tunnel address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines, see net.Conn.
func (c *Conn) SetDeadline(at time.Time) error { return c.tcp.SetDeadline(at) }

// SetReadDeadline sets when Read gives up, see net.Conn.
func (c *Conn) SetReadDeadline(at time.Time) error { return c.tcp.SetReadDeadline(at) }

// SetWriteDeadline sets when Write gives up, see net.Conn.
func (c *Conn) SetWriteDeadline(at time.Time) error { return c.tcp.SetWriteDeadline(at) }

// errnos are netstack's connection errors by their text, which is all of them
// that gonet passes on.
var errnos = map[string]error{
	(&tcpip.ErrConnectionReset{}).String():    syscall.ECONNRESET,
	(&tcpip.ErrConnectionAborted{}).String():  syscall.ECONNABORTED,
	(&tcpip.ErrAborted{}).String():            syscall.ECONNABORTED,
	(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
	(&tcpip.ErrClosedForSend{}).String():      syscall.EPIPE,
	(&tcpip.ErrNotConnected{}).String():       syscall.ENOTCONN,
	(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
}

// translate turns gonet's errors into those of package net.
func (c *Conn) translate(op string, err error) error {
	if err == nil || err == io.EOF && !c.closed.Load() {
		return err
	}
	if c.closed.Load() {
		return c.opError(op, net.ErrClosed)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return c.opError(op, os.ErrDeadlineExceeded)
	}
	var wrapped *net.OpError
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errno := errnos[err.Error()]; errno != nil {
		err = errno
	}
	return c.opError(op, err)
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}
