package main

import (
	"context"
	"os/signal"
	"syscall"
)

// holding is the context of a command that holds the tunnel. It ends when the
// terminal does, as by Ctrl-C: a host whose tunnel nobody holds would be left
// without any network. Under nohup it does not. Who reads the command's output
// may go at any time.
func holding(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE)
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}
