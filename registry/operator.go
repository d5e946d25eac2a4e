package registry

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
)

// Limits and names of what the operator's login needs.
const (
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

// ChangeRootPassword replaces the hash old, ends all sessions and starts s, all
// or nothing; a zero tokenHash starts none. It fails with ErrState where old is
// not what is stored: somebody else has changed it meanwhile.
func (db *DB) ChangeRootPassword(ctx context.Context, old, hash []byte, tokenHash [32]byte, s Session) error {
	if len(hash) == 0 || len(hash) > maxPasswordHash {
		return fmt.Errorf("changing the root password: %w: a hash of %d bytes", ErrInvalid, len(hash))
	}
	err := db.changeSessions(ctx, func(ctx context.Context, tx *sql.Tx) error {
		stored, err := db.sealedSetting(ctx, tx, rootPasswordName)
		if err != nil {
			return err
		}
		if len(old) == 0 || !bytes.Equal(stored.Reveal(), old) {
			return fmt.Errorf("%w: the root password has been changed meanwhile", ErrState)
		}
		if err := db.setSealedSetting(ctx, tx, rootPasswordName, hash); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM sessions"); err != nil || tokenHash == ([32]byte{}) {
			return err
		}
		return db.insertSession(ctx, tx, tokenHash, s)
	})
	if err != nil {
		return fmt.Errorf("changing the root password: %w", err)
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
