package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// maxSecrets bounds how many named secrets there are.
const maxSecrets = 256

// namedSecrets is an immutable map of what SetSecret stored, unsealed.
type namedSecrets struct{ byName map[string]namedSecret }

type namedSecret struct {
	value secret.Secret // zero: what is stored does not open
	setAt time.Time
}

func namedPlace(name string) place { return place{kindNamed, name, "value"} }

// SetSecret seals a named secret, read by {{secret:NAME}}. There are at most 256.
func (db *DB) SetSecret(ctx context.Context, name string, value secret.Secret) error {
	if err := db.setSecret(ctx, name, value); err != nil {
		return fmt.Errorf("storing secret %q: %w", name, err)
	}
	return nil
}

func (db *DB) setSecret(ctx context.Context, name string, value secret.Secret) error {
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
	now := db.clock()
	next := maps.Clone(db.named.Load().byName)
	if _, there := next[name]; !there && len(next) >= maxSecrets {
		return fmt.Errorf("%w: there are %d named secrets already", ErrInvalid, maxSecrets)
	}
	next[name] = namedSecret{secret.New(value.Reveal()), now}
	if err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO named_secrets (name, sealed, set_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, set_at = excluded.set_at`,
			name, db.seal.seal(namedPlace(name), value.Reveal()), micros(now))
		return err
	}); err != nil {
		return err
	}
	db.named.Store(&namedSecrets{next})
	return nil
}

// ClearSecret removes a named secret. Clearing what is not there changes nothing.
func (db *DB) ClearSecret(ctx context.Context, name string) error {
	if err := db.clearSecret(ctx, name); err != nil {
		return fmt.Errorf("clearing secret %q: %w", name, err)
	}
	return nil
}

func (db *DB) clearSecret(ctx context.Context, name string) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	next := maps.Clone(db.named.Load().byName)
	if _, there := next[name]; !there {
		return nil
	}
	if err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM named_secrets WHERE name = ?", name)
		return err
	}); err != nil {
		return err
	}
	delete(next, name)
	db.named.Store(&namedSecrets{next})
	return nil
}

// NamedSecret returns what SetSecret stored, or a zero Secret.
func (db *DB) NamedSecret(name string) secret.Secret { return db.named.Load().byName[name].value }

// SecretStatus says what is stored for a named secret: never its value.
type SecretStatus struct {
	Name  string
	SetAt time.Time
}

// Secrets lists the named secrets by name, those that do not open included.
func (db *DB) Secrets() []SecretStatus {
	byName := db.named.Load().byName
	list := make([]SecretStatus, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, SecretStatus{name, byName[name].setAt})
	}
	return list
}

func (db *DB) loadNamed(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT name, sealed, set_at FROM named_secrets")
	if err != nil {
		return err
	}
	defer rows.Close()
	byName := make(map[string]namedSecret)
	for rows.Next() {
		var name string
		var sealed []byte
		var setAt int64
		if err := rows.Scan(&name, &sealed, &setAt); err != nil {
			return err
		}
		value, err := db.seal.open(namedPlace(name), sealed)
		if err != nil { // its value is absent: what reads it says so
			db.log.Error("registry: a stored secret does not open; set it again", "secret", name)
		}
		byName[name] = namedSecret{value, fromMicros(setAt)}
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
