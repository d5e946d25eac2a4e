package proxytest

import (
	"context"
	"sync"
	"testing"
)

// Lasting is the TB of a kit that is used many times over in one test, or inside
// a fuzz target, where F must not be touched: what an input begins in the kit
// ends with the input. TB is required.
type Lasting struct {
	testing.TB

	mu    sync.Mutex
	input context.Context // of the input; nil between inputs; guarded by mu
}

// Helper does nothing: F has none inside its target.
func (l *Lasting) Helper() {}

// Cleanup is the test's between inputs. During one it drops f: the end of the
// input's context is what ends things.
func (l *Lasting) Cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.input == nil {
		l.TB.Cleanup(f)
	}
}

// Context is the input's, or between inputs the test's.
func (l *Lasting) Context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.input == nil {
		return l.TB.Context()
	}
	return l.input
}

// Input begins an input; end ends it. One at a time.
func (l *Lasting) Input() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.input = ctx
	return func() {
		cancel()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.input = nil
	}
}
