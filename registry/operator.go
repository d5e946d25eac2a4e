package registry

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

// Limits and names of what the operator's login needs.
const (
	maxSessions     = 64
	maxPasswordHash = 256 // bytes

	rootPasswordName = "root_password"
	setupCodeName    = "setup_code"
)

// RootPasswordHash returns the bcrypt hash, or nil before the first run.
func (db *DB) RootPasswordHash(ctx context.Context) ([]byte, error) {
	hash, err := db.sealedSetting(ctx, db.read, rootPasswordName)
	if err != nil {
		return nil, fmt.Errorf("reading the root password's hash: %w", err)
	}
	return append([]byte(nil), hash.Reveal()...), nil
}

// SetRootPasswordHash stores the hash, ends all sessions and spends the set-up
// code. With onlyFirst it fails with ErrState where one is stored already,
// atomically.
func (db *DB) SetRootPasswordHash(ctx context.Context, hash []byte, onlyFirst bool) error {
	if len(hash) == 0 || len(hash) > maxPasswordHash {
		return fmt.Errorf("storing the root password's hash: %w: %d bytes", ErrInvalid, len(hash))
	}
	err := db.endingSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if onlyFirst {
			old, err := db.sealedSetting(ctx, tx, rootPasswordName)
			if err != nil {
				return err
			}
			if !old.IsZero() {
				return fmt.Errorf("%w: a root password is set already", ErrState)
			}
		}
		if err := clearSealedSetting(ctx, tx, setupCodeName); err != nil {
			return err
		}
		return db.setSealedSetting(ctx, tx, rootPasswordName, hash)
	})
	if err != nil {
		return fmt.Errorf("storing the root password's hash: %w", err)
	}
	return nil
}

// ResetRootPassword removes the hash, ends all sessions and stores the SHA-256
// of the one-time code that the next set-up requires.
func (db *DB) ResetRootPassword(ctx context.Context, codeHash [32]byte) error {
	err := db.endingSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := clearSealedSetting(ctx, tx, rootPasswordName); err != nil {
			return err
		}
		return db.setSealedSetting(ctx, tx, setupCodeName, codeHash[:])
	})
	if err != nil {
		return fmt.Errorf("resetting the root password: %w", err)
	}
	return nil
}

// SetupCodeHash returns what ResetRootPassword stored, if a code is required.
func (db *DB) SetupCodeHash(ctx context.Context) (hash [32]byte, required bool, err error) {
	code, err := db.sealedSetting(ctx, db.read, setupCodeName)
	if err != nil {
		return hash, true, fmt.Errorf("reading the set-up code's hash: %w", err)
	}
	copy(hash[:], code.Reveal())
	return hash, !code.IsZero(), nil
}

// sessions is who is logged in. Tokens are looked up by their SHA-256, so the
// time a lookup takes says nothing about a token.
type sessions struct {
	mu    sync.RWMutex
	valid map[[32]byte]time.Time // guarded by mu: expiry by token hash
}

func (s *sessions) replace(valid map[[32]byte]time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid = valid
}

// endingSessions runs f in a transaction that also ends every session.
func (db *DB) endingSessions(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM sessions")
		return err
	})
	if err != nil {
		return err
	}
	db.sessions.replace(nil)
	return nil
}

// NewSession stores the SHA-256 of a session token. Expired sessions make room,
// and beyond 64 the oldest ends.
func (db *DB) NewSession(ctx context.Context, tokenHash [32]byte, expires time.Time) error {
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO sessions (token_hash, expires_at) VALUES (?, ?)",
			tokenHash[:], micros(expires)); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM sessions WHERE expires_at <= ?
			OR seq NOT IN (SELECT seq FROM sessions WHERE expires_at > ? ORDER BY seq DESC LIMIT ?)`,
			micros(db.clock()), micros(db.clock()), maxSessions)
		return err
	})
	if err != nil {
		return fmt.Errorf("storing a session: %w", err)
	}
	return nil
}

// EndSession removes one session.
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

// changeSessions runs f in a transaction and takes over what it left.
func (db *DB) changeSessions(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var valid map[[32]byte]time.Time
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

// SessionValid reports whether the token's session exists and has not expired;
// from memory.
func (db *DB) SessionValid(tokenHash [32]byte) bool {
	db.sessions.mu.RLock()
	defer db.sessions.mu.RUnlock()
	expires, ok := db.sessions.valid[tokenHash]
	return ok && db.now().Before(expires)
}

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

func readSessions(ctx context.Context, tx *sql.Tx) (map[[32]byte]time.Time, error) {
	rows, err := tx.QueryContext(ctx, "SELECT token_hash, expires_at FROM sessions")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	valid := make(map[[32]byte]time.Time)
	for rows.Next() {
		var hash []byte
		var expires int64
		if err := rows.Scan(&hash, &expires); err != nil {
			return nil, err
		}
		valid[[32]byte(hash)] = fromMicros(expires)
	}
	return valid, rows.Err()
}
