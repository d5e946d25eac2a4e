package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/clawpatrol/clawpatrol/policy"
)

// hinted is an error with advice, which main prints on a line of its own.
type hinted struct {
	error
	advice string
}

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.advice }

// hint returns the advice an error carries, if any error in its chain has some,
// else what to do about the system's own reasons.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	for _, r := range systemReasons {
		if errors.Is(err, r.errno) {
			return r.advice
		}
	}
	return ""
}

var systemReasons = []struct {
	errno  syscall.Errno
	advice string
}{
	{syscall.ENOSPC, "make room on that file system (df shows which is full), then run it again"},
	{syscall.EDQUOT, "make room within the disk quota, then run it again"},
	{syscall.EROFS, "that file system is read-only: mount it writable, or use another directory"},
	{syscall.ENOENT, "check the path"},
	{syscall.ENOTDIR, "check the path: a part of it is no directory"},
	{syscall.EACCES, "run it as a user who may, for example with sudo"},
	{syscall.EPERM, "run it as a user who may, for example with sudo"},
	{syscall.EMFILE, "raise the limit of open files (ulimit -n)"},
	{syscall.ENFILE, "raise the limit of open files (sysctl fs.file-max)"},
	{syscall.ENOMEM, "free some memory, then run it again"},
}

// sentence is an error on one line. What a policy file is told about stands on
// lines of its own.
func sentence(err error) string {
	var invalid *policy.DiagnosticsError
	if errors.As(err, &invalid) {
		return err.Error()
	}
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// usageHint says where to read how a command line should have been.
func usageHint(root *cobra.Command, args []string) string {
	if c, _, err := root.Find(args); err == nil && c != root {
		return "see: " + c.CommandPath() + " --help"
	}
	if len(args) > 0 {
		if near := root.SuggestionsFor(args[0]); len(near) > 0 {
			return "did you mean: clawpatrol " + strings.Join(near, ", or ") + "?"
		}
	}
	return "see: clawpatrol --help"
}

// portTaken adds advice to the error of a bind that found its port in use.
func portTaken(err error, attribute string) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return &hinted{err, fmt.Sprintf("another program, perhaps another gateway, has this port: stop it (`ss -lntup` shows it) or change %s", attribute)}
}
