package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/clawpatrol/clawpatrol/secret"
)

// namedSecrets is an immutable map of what SetSecret stored, unsealed.
type namedSecrets struct{ byName map[string]secret.Secret }

func namedPlace(name string) place { return place{kindNamed, name, "value"} }

// SetSecret seals a named secret, read by {{secret:NAME}}.
func (db *DB) SetSecret(ctx context.Context, name string, value secret.Secret) error {
	err := func() error {
		if !validKey(name) {
			return fmt.Errorf("%w: the name", ErrInvalid)
		}
		if err := checkSecret(value); err != nil {
			return err
		}
		end, err := db.begin(ctx)
		if err != nil {
			return err
		}
		defer end()
		if err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO named_secrets (name, sealed, set_at) VALUES (?, ?, ?)
				ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, set_at = excluded.set_at`,
				name, db.seal.seal(namedPlace(name), value.Reveal()), micros(db.clock()))
			return err
		}); err != nil {
			return err
		}
		next := maps.Clone(db.named.Load().byName)
		next[name] = secret.New(value.Reveal())
		db.named.Store(&namedSecrets{next})
		return nil
	}()
	if err != nil {
		return fmt.Errorf("storing secret %q: %w", name, err)
	}
	return nil
}

// NamedSecret returns what SetSecret stored, or a zero Secret.
func (db *DB) NamedSecret(name string) secret.Secret { return db.named.Load().byName[name] }

func (db *DB) loadNamed(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT name, sealed FROM named_secrets")
	if err != nil {
		return err
	}
	defer rows.Close()
	byName := make(map[string]secret.Secret)
	for rows.Next() {
		var name string
		var sealed []byte
		if err := rows.Scan(&name, &sealed); err != nil {
			return err
		}
		value, err := db.seal.open(namedPlace(name), sealed)
		if err != nil {
			db.log.Error("registry: a stored secret does not open; set it again", "secret", name)
			continue // absent: what reads it says so
		}
		byName[name] = value
	}
	db.named.Store(&namedSecrets{byName})
	return rows.Err()
}

// wireGuardKeyName is the sealed setting WireGuardKey keeps.
const wireGuardKeyName = "wireguard_private_key"

// WireGuardKey returns the gateway's WireGuard private key, made on first use
// and sealed.
func (db *DB) WireGuardKey(ctx context.Context) (secret.Secret, error) {
	key, err := db.wireGuardKey(ctx)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("loading the gateway's WireGuard key: %w", err)
	}
	return key, nil
}

func (db *DB) wireGuardKey(ctx context.Context) (secret.Secret, error) {
	end, err := db.begin(ctx)
	if err != nil {
		return secret.Secret{}, err
	}
	defer end()
	var key secret.Secret
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		key, err = db.sealedSetting(ctx, tx, wireGuardKeyName)
		if err != nil || !key.IsZero() {
			return err
		}
		private := make([]byte, 32)
		rand.Read(private)
		defer clear(private)
		// Curve25519's clamping (RFC 7748, section 5), as wg genkey does it.
		private[0] &= 248
		private[31] = private[31]&127 | 64
		key = secret.New(private)
		return db.setSealedSetting(ctx, tx, wireGuardKeyName, private)
	})
	return key, err
}

// querier is a connection or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func settingPlace(name string) place { return place{kindSetting, name, "sealed"} }

// sealedSetting returns a sealed setting, or a zero Secret where there is none.
func (db *DB) sealedSetting(ctx context.Context, q querier, name string) (secret.Secret, error) {
	var sealed []byte
	err := q.QueryRowContext(ctx, "SELECT sealed FROM sealed_settings WHERE name = ?", name).Scan(&sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return secret.Secret{}, nil
	}
	if err != nil {
		return secret.Secret{}, err
	}
	return db.seal.open(settingPlace(name), sealed)
}

func (db *DB) setSealedSetting(ctx context.Context, tx *sql.Tx, name string, value []byte) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO sealed_settings (name, sealed) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed`,
		name, db.seal.seal(settingPlace(name), value))
	return err
}

func clearSealedSetting(ctx context.Context, tx *sql.Tx, name string) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM sealed_settings WHERE name = ?", name)
	return err
}
