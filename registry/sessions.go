package registry

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits of sessions.
const (
	maxSessions = 64
	maxBrowser  = 256 // bytes
)

// Session is an operator who is logged in. Of its token only the SHA-256 is
// stored, and a Session does not have that either.
type Session struct {
	ID      string // names it to operators, is never given again, and opens nothing
	Created time.Time
	Expires time.Time
	Source  netip.Addr // where the log-in came from; zero: not known
	Browser string     // its own claim, cut to 256 bytes

	seq int64
}

// sessions is who is logged in. Tokens are looked up by their SHA-256, so the
// time a lookup takes says nothing about a token.
type sessions struct {
	mu    sync.RWMutex
	valid map[[32]byte]Session // guarded by mu: by token hash
}

func (s *sessions) replace(valid map[[32]byte]Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid = valid
}

// NewSession stores s under the SHA-256 of its token; its ID and Created are
// chosen here. It ends the sessions of the tokens that it replaces. Expired
// sessions make room, and beyond 64 the oldest ends.
//
// passwordHash is the one that whoever logs in was checked against, nil where
// there is none. NewSession fails with ErrState where another is stored by now: a
// change of the password ends all sessions, also those that are about to begin.
func (db *DB) NewSession(ctx context.Context, passwordHash []byte, tokenHash [32]byte, s Session, replaces ...[32]byte) error {
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		stored, err := db.sealedSetting(ctx, tx, rootPasswordName)
		if err != nil {
			return err
		}
		if !bytes.Equal(stored.Reveal(), passwordHash) {
			return fmt.Errorf("%w: the root password has been changed meanwhile", ErrState)
		}
		for _, old := range replaces {
			if _, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE token_hash = ?", old[:]); err != nil {
				return err
			}
		}
		return db.insertSession(ctx, tx, tokenHash, s)
	})
	if err != nil {
		return fmt.Errorf("storing a session: %w", err)
	}
	return nil
}

func (db *DB) insertSession(ctx context.Context, tx *sql.Tx, tokenHash [32]byte, s Session) error {
	source := ""
	if s.Source.IsValid() {
		source = s.Source.String()
	}
	now := micros(db.clock())
	if _, err := tx.ExecContext(ctx, "INSERT INTO sessions (token_hash, expires_at, created_at, source, browser) VALUES (?, ?, ?, ?, ?)",
		tokenHash[:], micros(s.Expires), now, source, strings.ToValidUTF8(s.Browser[:min(len(s.Browser), maxBrowser)], "")); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE expires_at <= ?
		OR seq NOT IN (SELECT seq FROM sessions WHERE expires_at > ? ORDER BY seq DESC LIMIT ?)`, now, now, maxSessions)
	return err
}

// EndSession removes one session; that there is none is no error.
func (db *DB) EndSession(ctx context.Context, tokenHash [32]byte) error {
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE token_hash = ?", tokenHash[:])
		return err
	})
	if err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	return nil
}

// EndSessionByID removes the session of this ID, or fails with ErrNotFound.
func (db *DB) EndSessionByID(ctx context.Context, id string) error {
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		ended, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE "+sessionID+" = ? AND expires_at > ?", id, micros(db.clock()))
		if err != nil {
			return err
		}
		n, err := ended.RowsAffected()
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	return nil
}

// EndSessions removes every session but those of these tokens.
func (db *DB) EndSessions(ctx context.Context, but ...[32]byte) error {
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		keep := make([]any, len(but))
		for i := range but {
			keep[i] = but[i][:]
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM sessions WHERE token_hash NOT IN ("+strings.TrimSuffix(strings.Repeat("?,", len(keep)), ",")+")", keep...)
		return err
	})
	if err != nil {
		return fmt.Errorf("ending sessions: %w", err)
	}
	return nil
}

// changeSessions runs f in a transaction and takes over what it left.
func (db *DB) changeSessions(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var valid map[[32]byte]Session
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		var err error
		valid, err = readSessions(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	db.sessions.replace(valid)
	return nil
}

// endingSessions is changeSessions that also ends every session.
func (db *DB) endingSessions(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	return db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM sessions")
		return err
	})
}

// SessionValid reports whether the token's session exists and has not expired;
// from memory.
func (db *DB) SessionValid(tokenHash [32]byte) bool {
	_, ok := db.Session(tokenHash)
	return ok
}

// Session returns the token's session, unless it has expired; from memory.
func (db *DB) Session(tokenHash [32]byte) (Session, bool) {
	db.sessions.mu.RLock()
	defer db.sessions.mu.RUnlock()
	s, ok := db.sessions.valid[tokenHash]
	if !ok || !db.now().Before(s.Expires) {
		return Session{}, false
	}
	return s, true
}

// Sessions returns those that have not expired, newest first; from memory.
func (db *DB) Sessions() []Session {
	db.sessions.mu.RLock()
	defer db.sessions.mu.RUnlock()
	now := db.now()
	var all []Session
	for _, s := range db.sessions.valid {
		if now.Before(s.Expires) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Session) int { return cmp.Compare(b.seq, a.seq) })
	return all
}

// sessionID is SQL for a session's ID.
const sessionID = "'s_' || seq"

func (db *DB) loadSessions(ctx context.Context) error {
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // it only read
	valid, err := readSessions(ctx, tx)
	db.sessions.replace(valid)
	return err
}

func readSessions(ctx context.Context, tx *sql.Tx) (map[[32]byte]Session, error) {
	rows, err := tx.QueryContext(ctx, "SELECT token_hash, seq, "+sessionID+", expires_at, created_at, source, browser FROM sessions")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	valid := make(map[[32]byte]Session)
	for rows.Next() {
		var hash []byte
		var expires, created int64
		var source string
		var s Session
		if err := rows.Scan(&hash, &s.seq, &s.ID, &expires, &created, &source, &s.Browser); err != nil {
			return nil, err
		}
		s.Expires, s.Created = fromMicros(expires), fromMicros(created)
		s.Source, _ = netip.ParseAddr(source) // empty: not known
		valid[[32]byte(hash)] = s
	}
	return valid, rows.Err()
}
