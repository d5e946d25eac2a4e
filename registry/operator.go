package registry

import (
	"context"
	"time"
)

// RootPasswordHash returns the bcrypt hash, or nil before the first run.
func (db *DB) RootPasswordHash(ctx context.Context) ([]byte, error) {
	panic("registry: not built yet")
}

// SetRootPasswordHash stores the hash and ends all sessions. With onlyFirst it
// fails with ErrState where one is stored already, atomically.
func (db *DB) SetRootPasswordHash(ctx context.Context, hash []byte, onlyFirst bool) error {
	panic("registry: not built yet")
}

// ResetRootPassword removes the hash, ends all sessions and stores the SHA-256
// of the one-time code that the next set-up requires.
func (db *DB) ResetRootPassword(ctx context.Context, codeHash [32]byte) error {
	panic("registry: not built yet")
}

// SetupCodeHash returns what ResetRootPassword stored, if a code is required.
func (db *DB) SetupCodeHash(ctx context.Context) (hash [32]byte, required bool, err error) {
	panic("registry: not built yet")
}

// NewSession stores the SHA-256 of a session token.
func (db *DB) NewSession(ctx context.Context, tokenHash [32]byte, expires time.Time) error {
	panic("registry: not built yet")
}

// SessionValid reports whether the token's session exists and has not expired;
// from memory.
func (db *DB) SessionValid(tokenHash [32]byte) bool { panic("registry: not built yet") }

// EndSession removes one session.
func (db *DB) EndSession(ctx context.Context, tokenHash [32]byte) error {
	panic("registry: not built yet")
}
