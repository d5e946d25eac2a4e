// Package control is the gateway's control socket: how an operator on the
// gateway's own host tells the running gateway something, without a password.
//
// The socket is a UNIX one with mode 0600 in state_dir, which is 0700. Whoever
// connects is asked for by SO_PEERCRED: root and the user that the gateway runs
// as are served, everyone else is cut off unheard. A connection carries one
// request and one reply, each one JSON object of bounded size, within a bounded
// time, and requests are served one after the other.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the socket's name in state_dir.
const Socket = "control.sock"

// Limits.
const (
	maxRequest = 16 << 10 // bytes
	maxReply   = 4 << 20  // bytes: 2000 invites, each with 16 profiles of 64 bytes, are under 3 MiB
	ioTimeout  = 5 * time.Second
	runTimeout = 30 * time.Second // for a command to be done
	maxWaiting = 16               // connections at once; further ones wait in the kernel's queue
)

// Command does what a request asks for. by names the operator, for logs; args is
// the request's, of bounded size. The reply is encoded as JSON. An error is shown
// to the operator, with its Hint where it has one.
type Command func(ctx context.Context, by string, args json.RawMessage) (reply any, err error)

type request struct {
	Do   string          `json:"do"`
	Args json.RawMessage `json:"args,omitempty"`
}

type reply struct {
	Reply json.RawMessage `json:"reply,omitempty"`
	Error string          `json:"error,omitempty"`
	Hint  string          `json:"hint,omitempty"`
}

// Server answers on the socket.
type Server struct {
	path     string
	ln       *net.UnixListener
	commands map[string]Command

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	serving sync.Mutex // held by the connection whose request is being done
	conns   sync.WaitGroup
	closed  sync.Once
}

// Open makes the socket in dir, and answers from then on until Close. The caller
// is the only gateway with this state_dir: a socket that is there is one that a
// killed gateway left.
func Open(dir string, commands map[string]Command) (*Server, error) {
	s := &Server{path: filepath.Join(dir, Socket), commands: commands}
	if err := s.listen(dir); err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.conns.Go(s.accept)
	return s, nil
}

func (s *Server) listen(dir string) error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	addr, closeDir, err := address(dir)
	if err != nil {
		return err
	}
	defer closeDir()
	s.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return err
	}
	s.ln.SetUnlinkOnClose(false) // its name goes through a descriptor that is closed by then
	// Between the two calls the directory, 0700, keeps everyone else out.
	if err := os.Chmod(s.path, 0o600); err != nil {
		s.ln.Close()
		return err
	}
	return nil
}

// address is how the socket in dir is reached: its path may be longer than a
// socket's address can be (unix(7)), so the way goes through a descriptor.
func address(dir string) (addr string, done func(), err error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), Socket), func() { d.Close() }, nil
}

// Close stops answering, ends what is under way, and removes the socket.
func (s *Server) Close() error {
	var err error
	s.closed.Do(func() {
		s.cancel()
		err = s.ln.Close()
		s.conns.Wait()
		if rerr := os.Remove(s.path); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	})
	if err != nil {
		return fmt.Errorf("closing the control socket: %w", err)
	}
	return nil
}

func (s *Server) accept() {
	slots := make(chan struct{}, maxWaiting)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		conn, err := s.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors left, for a moment
			<-slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
			}
			continue
		}
		s.conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(s.ctx, func() { conn.Close() })()
			s.serve(conn)
		})
	}
}

// serve reads one request and answers it.
func (s *Server) serve(conn *net.UnixConn) {
	uid, err := peer(conn)
	if err != nil || (uid != 0 && int(uid) != os.Geteuid()) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(ioTimeout))
	var req request
	if err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&req); err != nil {
		return
	}
	// A slow reader or writer waits in its own connection; this is held only while
	// something is done.
	s.serving.Lock()
	answer := s.do(req, fmt.Sprintf("uid %d on the control socket", uid))
	s.serving.Unlock()
	_ = conn.SetDeadline(time.Now().Add(ioTimeout))
	_ = json.NewEncoder(conn).Encode(answer) // whoever asked has gone
}

// do runs a command. A panic ends at its request (I16).
func (s *Server) do(req request, by string) (answer reply) {
	defer func() {
		if v := recover(); v != nil {
			answer = reply{Error: fmt.Sprintf("the gateway failed (%T): %s", v, firstFrames())}
		}
	}()
	command, ok := s.commands[req.Do]
	if !ok {
		return reply{Error: fmt.Sprintf("the gateway does not know the request %.40q", req.Do), Hint: "is it of another version? restart it after an upgrade"}
	}
	ctx, cancel := context.WithTimeout(s.ctx, runTimeout)
	defer cancel()
	result, err := command(ctx, by, req.Args)
	if err == nil {
		answer.Reply, err = json.Marshal(result)
	}
	if err != nil {
		answer = reply{Error: err.Error()}
		if h, ok := errors.AsType[interface {
			error
			Hint() string
		}](err); ok {
			answer.Hint = h.Hint()
		}
	}
	return answer
}

// firstFrames is the beginning of this goroutine's stack: root alone reads it.
func firstFrames() string {
	stack := debug.Stack()
	return string(stack[:min(len(stack), 2<<10)])
}

// peer is the user at the other end, as the kernel noted it at connect.
func peer(conn *net.UnixConn) (uid uint32, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if ctl := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); ctl != nil {
		return 0, ctl
	}
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
