// Package recording keeps what happened in SSH sessions, for operators to read
// and replay.
//
// A session with a terminal becomes an asciicast, version 2, as asciinema and its
// players read it; one without becomes a transcript. Both are files of JSON
// lines, one a session: <dir>/<yyyy-mm-dd>/<id>.cast or <id>.jsonl, readable by
// the gateway's user alone.
//
// What is written is bounded twice. A session that has filled its file goes on
// unrecorded, and the file says so. When all files together are too many, the
// oldest of the registration that takes the most room goes: a registration
// cannot wash away another's. Nor can it keep others from being recorded: what is
// being recorded of one takes at most as much as all that is being recorded
// leaves free, which is half of the room where it is alone.
//
// Secrets that the session's owner names are masked, also where they come in
// pieces. What an agent types is recorded only when asked for: passwords are
// typed.
package recording

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits bound the files. A field that is not positive means the default.
type Limits struct {
	File  int64 // bytes of one recording; 64 MiB
	Total int64 // bytes of all, each file in whole blocks of 4 KiB; 1 GiB
	Files int   // 20,000
}

const (
	defaultFile  = 64 << 20
	defaultTotal = 1 << 30
	defaultFiles = 20_000

	block = 4 << 10

	// room is kept in every file for its last lines.
	room = 2 << 10
)

// Meta says what is recorded. All texts are for people, but for Registration:
// letters, digits and "_", at most 64.
type Meta struct {
	Registration string
	Endpoint     string
	Credential   string
	Host         string
	User         string // the upstream's
	Command      string // "" for a shell

	PTY           bool
	Term          string // of a pty
	Columns, Rows uint32 // of a pty

	Input bool            // record what the agent sends, too
	Mask  []secret.Secret // not written: "[masked]" is
}

// Entry is a recording, as lists show it.
type Entry struct {
	ID      string
	Started time.Time
	Size    int64
	PTY     bool // an asciicast; else a transcript
	Live    bool // still being written
	Meta         // as far as it is written: without Mask
}

// Store keeps recordings in a directory. It is safe for concurrent use.
type Store struct {
	root   *os.Root
	limits Limits
	now    func() time.Time

	mu    sync.Mutex
	used  int64                // guarded by mu
	live  int64                // of used, by files still being written; guarded by mu
	files int                  // guarded by mu
	of    map[string]*recorded // by registration; guarded by mu
}

// recorded is what there is of one registration.
type recorded struct {
	used  int64
	live  int64   // of used
	files []*file // oldest first
}

// file is one recording's. Its fields but the name are guarded by Store.mu.
type file struct {
	name name
	size int64
	live bool
}

func (f *file) room() int64 { return max(1, (f.size+block-1)/block) * block }

// Open opens the store, which is made where there is none. What a crash left
// half-written is kept as it is.
func Open(dir string, limits Limits) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening recordings: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening recordings: %w", err)
	}
	if info, err := root.Stat("."); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, errors.Join(fmt.Errorf("opening recordings: %s is open to others than its owner: chmod 700", dir), err, root.Close())
	}
	s := &Store{root: root, limits: limits.orDefault(), now: time.Now, of: make(map[string]*recorded)}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening recordings: %w", err), root.Close())
	}
	return s, nil
}

func (l Limits) orDefault() Limits {
	if l.File <= 0 {
		l.File = defaultFile
	}
	if l.Total <= 0 {
		l.Total = defaultTotal
	}
	if l.Files <= 0 {
		l.Files = defaultFiles
	}
	return l
}

// load finds the files there are. Days and names sort by time.
func (s *Store) load() error {
	days, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, day := range days {
		if !day.IsDir() {
			continue
		}
		entries, err := fs.ReadDir(s.root.FS(), day.Name())
		if err != nil {
			return err
		}
		for _, entry := range entries {
			n, ok := parseFile(entry.Name())
			if !ok || n.day() != day.Name() {
				continue // not ours
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			s.add(&file{name: n, size: info.Size()})
		}
	}
	s.fit(0) // of no one in particular
	return nil
}

// Close closes the store. Sessions must have been finished.
func (s *Store) Close() error { return s.root.Close() }

// Start begins a recording. An error means that the session must not be.
func (s *Store) Start(m Meta) (*Session, error) {
	session, err := s.start(m)
	if err != nil {
		return nil, fmt.Errorf("starting a recording: %w", err)
	}
	return session, nil
}

func (s *Store) start(m Meta) (*Session, error) {
	n, err := newName(s.now(), m.Registration, m.PTY)
	if err != nil {
		return nil, err
	}
	f := &file{name: n, live: true}
	w, fits, err := s.create(f)
	if err != nil {
		return nil, err
	}
	session := newSession(s, f, w, m)
	err = errNoRoom
	if fits {
		err = session.begin(n)
	}
	if err != nil {
		s.remove(f)
		return nil, errors.Join(err, w.Close())
	}
	return session, nil
}

// create makes a file, and room for it.
func (s *Store) create(f *file) (w *os.File, fits bool, err error) {
	s.mu.Lock() // or drop could remove the directory
	defer s.mu.Unlock()
	if err := s.root.Mkdir(f.name.day(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, false, err
	}
	w, err = s.root.OpenFile(f.name.path(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, false, err
	}
	s.add(f)
	return w, s.fits(s.of[f.name.registration]), nil
}

var errNoRoom = errors.New("there is no room, and nothing that may be removed")

// List returns recordings, the newest first: of one registration, or of all where
// it is "". Those before an id, where one is given; at most limit.
func (s *Store) List(registration, before string, limit int) ([]Entry, error) {
	files := s.newest(registration, before, limit)
	entries := make([]Entry, 0, len(files))
	for _, f := range files {
		switch e, r, err := s.open(f); {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			return nil, fmt.Errorf("listing recordings: %w", err)
		default:
			entries = append(entries, e)
			if err := r.Close(); err != nil {
				return nil, err
			}
		}
	}
	return entries, nil
}

// Read opens a recording, whose text is what the package comment says.
// fs.ErrNotExist means that there is none with this id.
func (s *Store) Read(id string) (Entry, io.ReadSeekCloser, error) {
	f, ok := s.find(id)
	if !ok {
		return Entry{}, nil, fmt.Errorf("reading a recording: %w", fs.ErrNotExist)
	}
	e, r, err := s.open(f)
	if err != nil {
		return Entry{}, nil, fmt.Errorf("reading a recording: %w", err)
	}
	return e, r, nil
}

// open opens a file and reads its head, as far as it was written.
func (s *Store) open(f file) (Entry, *os.File, error) {
	r, err := s.root.Open(f.name.path())
	if err != nil {
		return Entry{}, nil, err
	}
	e := Entry{ID: f.name.id(), Started: f.name.time, Size: f.size, PTY: f.name.pty, Live: f.live}
	e.Meta = readHead(r)
	e.Meta.Registration, e.Meta.PTY = f.name.registration, f.name.pty
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return Entry{}, nil, errors.Join(err, r.Close())
	}
	return e, r, nil
}
