// Package sftp relays one SFTP session packet by packet, and asks before each
// request that names a path.
//
// It speaks version 3, draft-ietf-secsh-filexfer-02, with the extensions of
// OpenSSH's PROTOCOL file: what every program offers or falls back to. Requests
// reach the upstream in the agent's order, as many outstanding as the agent
// likes; a refused one is answered here and never sent. The data of reads and
// writes is copied as it comes.
//
// What a request does is told by its effect, not by how it is spelled: a rename
// is a rename whether asked for by SSH_FXP_RENAME or posix-rename@openssh.com.
// Who holds a handle may read, write, list and close it without being asked
// again: that was decided when it was opened.
package sftp

import (
	"fmt"
	"io"
	"runtime/debug"
	"sync"
)

// Op is what a request does.
type Op string

// The operations.
const (
	Read     Op = "read"     // open a file, for reading and without making it
	Write    Op = "write"    // open a file in any other way: also to append, to create, to truncate
	List     Op = "list"     // open a directory
	Remove   Op = "remove"   // a file
	Rename   Op = "rename"   // Path to Target
	Mkdir    Op = "mkdir"    //
	Rmdir    Op = "rmdir"    //
	Setstat  Op = "setstat"  // size, owner, mode or times, by path or of an open file: a size truncates
	Symlink  Op = "symlink"  // make Target, which points to Path
	Hardlink Op = "hardlink" // make Target, the file at Path
	Copy     Op = "copy"     // within the upstream, between the open files Path and Target
	Stat     Op = "stat"     // attributes of a file or a file system, the target of a symbolic link
	Resolve  Op = "resolve"  // what a path is in full: asked by most programs as they start
)

// Looks says that an operation neither changes anything nor opens what can:
// programs that walk a tree make thousands of these.
func (o Op) Looks() bool { return o == Stat || o == Resolve || o == List }

// Action is a request as it is decided on.
//
// Paths are clean in the sense of path.Clean, and a path with ".." is sent on as
// it is shown here. Where a relative one begins, and what is a symbolic link, the
// upstream alone knows. They need not be UTF-8 and are at most 4096 bytes.
//
// Of the two paths of SSH_FXP_SYMLINK, Target is the link as OpenSSH's server
// reads them, which is not as the draft has it: judge both.
type Action struct {
	Op     Op
	Path   string
	Target string // the second path, of those that have one
}

// Relay passes one session between the agent and the upstream. Both are at its
// beginning, before SSH_FXP_INIT.
//
// decide is called by one goroutine, in the order of the requests, which wait
// while it does. What it returns an error for is not sent: the agent is told
// "permission denied" with the error's text, which many programs do not show.
// Without decide everything is refused.
//
// When one side ends what it sends, the other's CloseWrite is called, if it has
// one. Relay returns when the upstream has ended its side, or with an error when
// one of them cannot be read or written or does not keep to the protocol. It
// closes nothing: the caller then closes both, which ends the goroutine that may
// still read the other side.
func Relay(agent, upstream io.ReadWriter, decide func(Action) error) error {
	s := &session{decide: decide, agent: &shared{w: agent}, upstream: &shared{w: upstream}}
	ended := make(chan error, 2)
	go func() {
		defer contain(ended)
		err := s.passRequests(agent)
		if err != nil {
			ended <- err
			return
		}
		closeWrite(upstream)
	}()
	go func() {
		defer contain(ended)
		err := s.passReplies(upstream)
		if err == nil {
			closeWrite(agent)
		}
		ended <- err
	}()
	return <-ended
}

// contain makes a panic the end of one session. ended has room.
func contain(ended chan<- error) {
	if r := recover(); r != nil {
		ended <- fmt.Errorf("sftp panicked: %T\n%s", r, debug.Stack()) // the value may quote what was carried
	}
}

// session is what the two directions share.
type session struct {
	decide   func(Action) error
	agent    *shared
	upstream *shared
	handles  handles
}

// shared is where packets are written to by more than one goroutine. A packet
// that comes in pieces keeps the others waiting.
type shared struct {
	turn sync.Mutex // held while a packet is under way
	w    io.Writer
}

// write writes packets, or a piece of one. The caller has the turn.
func (s *shared) write(p []byte) error {
	_, err := s.w.Write(p)
	return err
}

// packet writes one whole packet in its turn.
func (s *shared) packet(p []byte) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.write(p)
}

func closeWrite(w io.Writer) {
	if c, ok := w.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // its reader may be gone already
	}
}
