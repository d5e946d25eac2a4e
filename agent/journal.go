package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxJournalLine bounds one entry. The largest holds a resolv.conf, which libc
// reads to a few KiB.
const maxJournalLine = 1 << 20 // bytes

// scope says which command undoes an entry.
type scope string

const (
	scopeTunnel    scope = "tunnel"    // down, leave
	scopeEnrolment scope = "enrolment" // leave
)

// step is a kind of change.
type step string

const (
	stepFile      step = "file"       // Key: path; File: what was there
	stepRefresh   step = "refresh"    // Key: a program that rebuilds a trust store from its sources
	stepLink      step = "link"       // Key: the TUN's name
	stepRouting   step = "routing"    // our rules and our table
	stepResolved  step = "resolved"   // Key: the link's name
	stepService   step = "service"    // Key: the unit's name
	stepRunSocket step = "run socket" // Key: the directory that is made for it
	stepAppArmor  step = "apparmor"   // Key: the profile's path, to be unloaded
)

// entry is one change that is about to be made, with what it takes to undo it.
// Undoing must be possible any number of times, and also when the change was
// never made.
type entry struct {
	Step  step        `json:"step"`
	Scope scope       `json:"scope"`
	Key   string      `json:"key,omitempty"`
	File  *fileBefore `json:"file,omitempty"`
}

// journal is the list of changes made to the host and not undone. Each is on
// disk before it is made. Only the holder of the lock has one open.
type journal struct {
	path       string
	entries    []entry
	checkpoint func(string)
}

// openJournal reads the journal; a missing one is empty. A last line that is not
// complete is an entry whose change was never begun.
func openJournal(path string, checkpoint func(string)) (*journal, error) {
	j := &journal{path: path, checkpoint: checkpoint}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	defer f.Close()
	if err := checkMode(path, 0o600); err != nil {
		return nil, err
	}
	if j.entries, err = readJournal(f); err != nil {
		return nil, WithHint(fmt.Errorf("reading %s: %w", path, err), "it lists what join changed on this host, in JSON lines: undo those by hand, then remove it")
	}
	return j, nil
}

func readJournal(r io.Reader) ([]entry, error) {
	var entries []entry
	in := bufio.NewReaderSize(io.LimitReader(r, 64*maxJournalLine), 64<<10)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		if len(line) > maxJournalLine {
			return nil, fmt.Errorf("line %d is longer than %d bytes", n, maxJournalLine)
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("line %d is damaged", n)
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		entries = append(entries, e)
	}
}

func (e entry) check() error {
	if e.Scope != scopeTunnel && e.Scope != scopeEnrolment {
		return fmt.Errorf("unknown scope %q", e.Scope)
	}
	switch e.Step {
	case stepFile, stepBlock:
		if e.File == nil || !filepath.IsAbs(e.Key) {
			return errors.New("incomplete file entry")
		}
	case stepRefresh, stepLink, stepRouting, stepResolved, stepService, stepDir, stepRunSocket, stepAppArmor:
	default:
		return fmt.Errorf("unknown step %q", e.Step)
	}
	return nil
}

// find returns the entry for this change, or nil.
func (j *journal) find(s step, key string) *entry {
	for i := range j.entries {
		if j.entries[i].Step == s && j.entries[i].Key == key {
			return &j.entries[i]
		}
	}
	return nil
}

// record makes e durable; the change may be made once it has returned nil. An
// entry for the same change is kept as it is: it knows what was there before us.
func (j *journal) record(e entry) error {
	if j.find(e.Step, e.Key) != nil {
		return nil
	}
	j.checkpoint("before record " + string(e.Step))
	if err := j.write(append(slices.Clone(j.entries), e)); err != nil {
		return err
	}
	j.checkpoint("recorded " + string(e.Step))
	return nil
}

// replace puts e in the place of the entry for the same change.
func (j *journal) replace(e entry) error {
	next := slices.Clone(j.entries)
	i := slices.IndexFunc(next, func(o entry) bool { return o.Step == e.Step && o.Key == e.Key })
	if i < 0 {
		return j.record(e)
	}
	next[i] = e
	return j.write(next)
}

// write makes entries the journal. There are a handful: rewriting the file keeps
// it free of torn lines and costs one fsync more than appending.
func (j *journal) write(entries []entry) error {
	if len(entries) == 0 {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the journal: %w", err)
		}
		j.entries = nil
		return syncDir(filepath.Dir(j.path))
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("encoding the journal: %w", err)
		}
	}
	if err := replaceFile(j.path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.entries = entries
	return nil
}

// undo undoes the entries of these scopes, the last first, and removes those
// that were undone. One that fails stays, and does not keep the others.
func (j *journal) undo(undo func(entry) error, scopes ...scope) error {
	var errs []error
	var left []entry
	for _, e := range slices.Backward(j.entries) {
		if !slices.Contains(scopes, e.Scope) {
			left = append(left, e)
			continue
		}
		if err := undo(e); err != nil {
			errs = append(errs, fmt.Errorf("undoing %s %s: %w", e.Step, e.Key, err))
			left = append(left, e)
		}
		j.checkpoint("undid " + string(e.Step))
	}
	slices.Reverse(left)
	if len(left) != len(j.entries) {
		if err := j.write(left); err != nil {
			errs = append(errs, WithHint(fmt.Errorf("forgetting what was undone: %w", err), "the host itself is as it was; once that is put right, clawpatrol down or leave again"))
		}
	}
	return errors.Join(errs...)
}
