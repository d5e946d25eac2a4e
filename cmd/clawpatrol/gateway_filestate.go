package main

import (
	"os"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/policy"
)

// fileState is how the policy's file stands to the policy in force.
type fileState struct {
	checking sync.Mutex // held while the file is read for the dashboard: one at a time

	mu        sync.Mutex // guards what follows
	loaded    time.Time  // when the policy in force was read
	atStart   []string   // its blocks that wait for the next start
	refused   error      // why the last reload changed nothing; nil: it did
	refusedAt time.Time
}

// accept notes that a policy is in force now. The blocks named in atStart are
// not, before the next start.
func (f *fileState) accept(atStart []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded, f.atStart, f.refused = time.Now(), atStart, nil
}

// refuse notes that a reload changed nothing.
func (f *fileState) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused, f.refusedAt = err, time.Now()
}

// policyFile tells the dashboard what a reload would do now. It reads the file,
// and puts nothing in force.
func (g *gateway) policyFile() dashboard.PolicyFile {
	f := &g.disk
	f.checking.Lock()
	defer f.checking.Unlock()
	now := g.policy.Load()
	next, err := loadPolicy(g.file)

	f.mu.Lock()
	defer f.mu.Unlock()
	state := dashboard.PolicyFile{LoadedAt: f.loaded, AtStart: f.atStart, Problem: err, Next: next}
	state.Differs = err != nil || !sameFiles(now, next) || !policy.Compare(now, next).Empty()
	if !state.Differs {
		return state
	}
	if err != nil && f.refused != nil && f.refused.Error() == err.Error() {
		state.Since = f.refusedAt
	} else if fi, err := os.Stat(g.file); err == nil {
		state.Since = fi.ModTime()
	}
	return state
}

// sameFiles reports whether two policies were compiled from the same texts.
func sameFiles(a, b *policy.Policy) bool {
	x, y := a.Sources(), b.Sources()
	if len(x) != len(y) {
		return false
	}
	for i := range x {
		if x[i].Digest != y[i].Digest {
			return false
		}
	}
	return true
}
