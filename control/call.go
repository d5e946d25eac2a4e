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
	"syscall"
	"time"
)

// Error is what a gateway answered instead of doing what it was asked for, or
// why it could not be asked.
type Error struct {
	Message string
	Advice  string // may be empty
	Err     error  // nil where the gateway said it
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string { return e.Advice }

// Call asks the gateway that has dir as its state_dir to do something, and
// decodes its reply into result.
func Call(ctx context.Context, dir, do string, args, result any) error {
	addr, done, err := address(dir)
	if err != nil {
		return unreachable(dir, err)
	}
	defer done()
	conn, err := (&net.Dialer{Timeout: ioTimeout}).DialContext(ctx, "unix", addr)
	if err != nil {
		return unreachable(dir, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(ioTimeout + runTimeout))

	raw, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("asking the gateway: %w", err)
	}
	if err := json.NewEncoder(conn).Encode(request{Do: do, Args: raw}); err != nil {
		return noAnswer(ctx, err)
	}
	var answer reply
	if err := json.NewDecoder(io.LimitReader(conn, maxReply)).Decode(&answer); err != nil {
		return noAnswer(ctx, err)
	}
	if answer.Error != "" {
		return &Error{Message: answer.Error, Advice: answer.Hint}
	}
	if err := json.Unmarshal(answer.Reply, result); err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return nil
}

// unreachable is the error for a socket that nobody answers at.
func unreachable(dir string, err error) error {
	e := &Error{Message: fmt.Sprintf("asking the gateway: %v", err), Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.Message = "asking the gateway: only root and the user it runs as may"
		e.Advice = "run it with sudo"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Message = fmt.Sprintf("asking the gateway: none runs with the state directory %s", dir)
		e.Advice = "run it on the gateway's host while the gateway runs; --state-dir or the path of its gateway.hcl says where its state is"
	}
	return e
}

func noAnswer(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("asking the gateway: %w", context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Error{Message: "asking the gateway: it does not answer", Advice: "its log may say why", Err: err}
	}
	return &Error{Message: "asking the gateway: it closed the connection without an answer",
		Advice: "it is stopping, or this is neither root nor the user it runs as", Err: err}
}
