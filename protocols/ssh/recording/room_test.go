package recording_test

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
)

// What an agent can make is bounded, and it only pushes out its own.
func TestI16_RecordingsOfOthersStay(t *testing.T) {
	const total = 400_000
	s, dir := open(t, recording.Limits{Total: total, File: 100_000})
	quiet := start(t, s, recording.Meta{Registration: "r_quiet"})
	must(t, quiet.Finish("closed"))
	var loud []string
	for range 30 {
		session := start(t, s, recording.Meta{Registration: "r_loud"})
		must(t, session.Stdout([]byte(strings.Repeat("x", 60_000))))
		must(t, session.Finish("closed"))
		loud = append(loud, session.ID())
	}
	if _, _, err := s.Read(quiet.ID()); err != nil {
		t.Errorf("the quiet one's is gone: %v", err)
	}
	if _, _, err := s.Read(loud[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the loud one's oldest is there: %v", err)
	}
	if _, _, err := s.Read(loud[len(loud)-1]); err != nil {
		t.Errorf("the loud one's newest is gone: %v", err)
	}
	if size := sizeOf(t, dir); size > total {
		t.Errorf("%d bytes", size)
	}
}

// What is being recorded of one registration, however many its sessions are,
// washes away nothing of those that have less.
func TestI16_LiveRecordingsOfOneLeaveThoseOfOthers(t *testing.T) {
	const total = 400_000
	s, dir := open(t, recording.Limits{Total: total, File: 100_000})
	var quiet []string
	for i := range 5 {
		session := start(t, s, recording.Meta{Registration: fmt.Sprintf("r_quiet%d", i)})
		must(t, session.Stdout([]byte(strings.Repeat("x", 50_000))))
		must(t, session.Finish("closed"))
		quiet = append(quiet, session.ID())
	}
	loud := grow(t, s, "r_loud", 16)
	for _, id := range quiet {
		if _, _, err := s.Read(id); err != nil {
			t.Errorf("a quiet one's is gone: %v", err)
		}
	}
	if size := sizeOf(t, dir); size > total {
		t.Errorf("%d bytes", size)
	}
	for _, session := range loud {
		must(t, session.Finish("closed"))
	}
}

// However much is being recorded of some registrations, others can begin, and so
// can they themselves again when they have finished.
func TestI16_LiveRecordingsLeaveRoomToOthers(t *testing.T) {
	s, _ := open(t, recording.Limits{Total: 400_000, File: 100_000})
	var live []*recording.Session
	for i := range 3 {
		live = append(live, grow(t, s, fmt.Sprintf("r_loud%d", i), 8)...)
	}
	one := start(t, s, recording.Meta{Registration: "r_quiet"})
	must(t, one.Stdout([]byte(strings.Repeat("y", 10_000))))
	must(t, one.Finish("closed"))
	if _, lines := read(t, s, one.ID()); len(lines) != 2 || !strings.Contains(lines[0], strings.Repeat("y", 10_000)) || !strings.Contains(lines[1], "closed") {
		t.Errorf("%d lines", len(lines))
	}
	for _, session := range live {
		must(t, session.Finish("closed"))
	}
	for _, session := range grow(t, s, "r_loud0", 3) {
		must(t, session.Finish("closed"))
		if e, r, err := s.Read(session.ID()); err != nil || e.Size < 50_000 || r.Close() != nil {
			t.Errorf("%d bytes, %v", e.Size, err)
		}
	}
}

// grow begins n sessions of a registration, and writes to each as much as a file
// may have, in turn.
func grow(t *testing.T, s *recording.Store, registration string, n int) (sessions []*recording.Session) {
	t.Helper()
	for range n {
		sessions = append(sessions, start(t, s, recording.Meta{Registration: registration}))
	}
	for range 100 {
		for _, session := range sessions {
			must(t, session.Stdout([]byte(strings.Repeat("x", 1000))))
		}
	}
	return sessions
}

func TestStore_BoundsTheNumberOfFiles(t *testing.T) {
	s, dir := open(t, recording.Limits{Files: 5})
	for range 20 {
		must(t, start(t, s, recording.Meta{}).Finish("closed"))
	}
	list, err := s.List("", "", 100)
	must(t, err)
	if len(list) != 5 {
		t.Errorf("%d are left", len(list))
	}
	// Lower limits hold from the start.
	must(t, s.Close())
	s, err = recording.Open(dir, recording.Limits{Files: 2})
	must(t, err)
	if list, err = s.List("", "", 100); err != nil || len(list) != 2 {
		t.Errorf("%d are left, %v", len(list), err)
	}
}

// Live recordings are not removed: where nothing else is left, nothing is begun.
func TestI19_WithoutRoomNothingIsBegun(t *testing.T) {
	s, _ := open(t, recording.Limits{Files: 1})
	live := start(t, s, recording.Meta{})
	if _, err := s.Start(recording.Meta{Registration: "r_two"}); err == nil {
		t.Error("a second was begun")
	}
	must(t, live.Stdout([]byte("x")))
	must(t, live.Finish("closed"))
	must(t, start(t, s, recording.Meta{Registration: "r_two"}).Finish("closed"))
}

func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	}))
	return size
}
