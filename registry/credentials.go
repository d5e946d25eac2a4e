package registry

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits of what is sealed.
const (
	maxSecretSize = 64 << 10 // bytes of one secret
	maxSlots      = 16       // of one credential
	maxRef        = 256      // bytes of a credential's ref or a slot's name
)

// credentials is what the data path reads: every credential's secrets,
// unsealed, as an immutable value.
type credentials struct {
	byRef map[string]*credential
}

// credential is one credential's secrets, immutable.
type credential struct {
	version uint64
	slots   map[string]secret.Secret
	setAt   map[string]time.Time
	err     error // why its secrets cannot be had
}

// with returns the credentials with c as ref's.
func (cs *credentials) with(ref string, c *credential) *credentials {
	byRef := maps.Clone(cs.byRef)
	byRef[ref] = c
	return &credentials{byRef}
}

func credentialPlace(ref, slot string) place { return place{kindCredential, ref, slot} }

// SetCredential seals the given slots of the credential ref ("bearer.github")
// and raises its version. Slots not named keep their value. An empty secret is
// refused: it would authenticate nothing.
func (db *DB) SetCredential(ctx context.Context, ref string, slots map[string]secret.Secret) error {
	return db.storeCredential(ctx, ref, slots, false)
}

// ReplaceCredential is SetCredential, but slots not named are cleared: for values
// that mean something only together.
func (db *DB) ReplaceCredential(ctx context.Context, ref string, slots map[string]secret.Secret) error {
	return db.storeCredential(ctx, ref, slots, true)
}

func (db *DB) storeCredential(ctx context.Context, ref string, slots map[string]secret.Secret, replace bool) error {
	if err := db.setCredential(ctx, ref, slots, replace); err != nil {
		return fmt.Errorf("storing credential %q: %w", ref, err)
	}
	return nil
}

func (db *DB) setCredential(ctx context.Context, ref string, slots map[string]secret.Secret, replace bool) error {
	if !validKey(ref) {
		return fmt.Errorf("%w: the credential's name", ErrInvalid)
	}
	if len(slots) == 0 {
		return fmt.Errorf("%w: no slots", ErrInvalid)
	}
	for slot, value := range slots {
		if !validKey(slot) {
			return fmt.Errorf("%w: the name of slot %q", ErrInvalid, slot)
		}
		if err := checkSecret(value); err != nil {
			return fmt.Errorf("slot %q: %w", slot, err)
		}
	}
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	now := db.clock()
	next := credential{slots: map[string]secret.Secret{}, setAt: map[string]time.Time{}}
	if old := db.credentials.Load().byRef[ref]; old != nil {
		next.version = old.version
		if !replace {
			maps.Copy(next.slots, old.slots)
			maps.Copy(next.setAt, old.setAt)
			next.err = old.err
		}
	}
	next.version++
	for slot, value := range slots {
		next.slots[slot] = secret.New(value.Reveal())
		next.setAt[slot] = now
	}
	if len(next.setAt) > maxSlots {
		return fmt.Errorf("%w: more than %d slots", ErrInvalid, maxSlots)
	}
	if next.err != nil && len(next.slots) == len(next.setAt) {
		next.err = nil // every slot that did not open has been replaced
	}
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := storeVersion(ctx, tx, ref, next.version); err != nil {
			return err
		}
		if replace {
			if _, err := tx.ExecContext(ctx, "DELETE FROM credential_slots WHERE ref = ?", ref); err != nil {
				return err
			}
		}
		for slot, value := range slots {
			if _, err := tx.ExecContext(ctx, `INSERT INTO credential_slots (ref, slot, sealed, set_at) VALUES (?, ?, ?, ?)
				ON CONFLICT (ref, slot) DO UPDATE SET sealed = excluded.sealed, set_at = excluded.set_at`,
				ref, slot, db.seal.seal(credentialPlace(ref, slot), value.Reveal()), micros(now)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	db.credentials.Store(db.credentials.Load().with(ref, &next))
	return nil
}

// ClearCredential removes every slot of ref and raises its version. Clearing
// what has no slots changes nothing.
func (db *DB) ClearCredential(ctx context.Context, ref string) error {
	end, err := db.begin(ctx)
	if err != nil {
		return fmt.Errorf("clearing credential %q: %w", ref, err)
	}
	defer end()
	old := db.credentials.Load().byRef[ref]
	if old == nil || len(old.setAt) == 0 {
		return nil
	}
	next := credential{version: old.version + 1}
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "DELETE FROM credential_slots WHERE ref = ?", ref); err != nil {
			return err
		}
		return storeVersion(ctx, tx, ref, next.version)
	})
	if err != nil {
		return fmt.Errorf("clearing credential %q: %w", ref, err)
	}
	db.credentials.Store(db.credentials.Load().with(ref, &next))
	return nil
}

// storeVersion stores a version that is greater than the one stored.
func storeVersion(ctx context.Context, tx *sql.Tx, ref string, version uint64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO credentials (ref, version) VALUES (?, ?)
		ON CONFLICT (ref) DO UPDATE SET version = excluded.version`, ref, int64(version))
	return err
}

// CredentialStatus says what is stored for a credential: never a value.
type CredentialStatus struct {
	Ref     string
	Version uint64 // raised by every change; 0: nothing was ever stored
	Slots   map[string]time.Time
}

// Credentials lists what is stored, by ref. A cleared credential is in the
// list with its version and no slots.
func (db *DB) Credentials(context.Context) ([]CredentialStatus, error) {
	byRef := db.credentials.Load().byRef
	list := make([]CredentialStatus, 0, len(byRef))
	for _, ref := range slices.Sorted(maps.Keys(byRef)) {
		c := byRef[ref]
		list = append(list, CredentialStatus{Ref: ref, Version: c.version, Slots: maps.Clone(c.setAt)})
	}
	return list, nil
}

// CredentialVersion returns ref's present version from memory.
func (db *DB) CredentialVersion(ref string) uint64 {
	if c := db.credentials.Load().byRef[ref]; c != nil {
		return c.version
	}
	return 0
}

// Released is a credential's secrets, handed out by Release only.
type Released struct {
	Action  int64 // the log row that recorded the release
	Version uint64
	Slots   map[string]secret.Secret
}

// Release is the one way from the registry to a credential's secret. It queues
// row on the action log first, waiting while the queue is full, and only then
// returns the secrets of row.Credential. No row, no secret: if the row cannot
// be queued or the log has failed, Release fails. So it does where row's
// verdict is not "allow" or its registration is not approved (ErrState). A
// credential with nothing stored is not an error: Slots is empty. One whose
// stored value does not open is.
func (db *DB) Release(ctx context.Context, row Action) (Released, error) {
	r, err := db.release(ctx, row)
	if err != nil {
		return Released{}, fmt.Errorf("releasing credential %q: %w", row.Credential, err)
	}
	return r, nil
}

func (db *DB) release(ctx context.Context, row Action) (Released, error) {
	if row.Credential == "" {
		return Released{}, fmt.Errorf("%w: the row names no credential", ErrInvalid)
	}
	if row.Verdict != verdictAllow {
		return Released{}, fmt.Errorf("%w: the row's verdict is %q", ErrState, row.Verdict)
	}
	if r, ok := db.Snapshot().ByID(row.Registration); !ok || r.State != Approved {
		return Released{}, fmt.Errorf("%w: registration %q is not approved", ErrState, row.Registration)
	}
	id, err := db.Append(ctx, row)
	if err != nil {
		return Released{}, err
	}
	c := db.credentials.Load().byRef[row.Credential]
	if c == nil {
		return Released{Action: id, Slots: map[string]secret.Secret{}}, nil
	}
	if c.err != nil {
		db.Finish(id, ActionResult{Status: "credential_damaged"})
		return Released{}, c.err
	}
	slots := make(map[string]secret.Secret, len(c.slots))
	maps.Copy(slots, c.slots)
	return Released{Action: id, Version: c.version, Slots: slots}, nil
}

// loadCredentials unseals every credential. One that does not open keeps the
// others from nobody.
func (db *DB) loadCredentials(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, `SELECT c.ref, c.version, s.slot, s.sealed, s.set_at
		FROM credentials c LEFT JOIN credential_slots s ON s.ref = c.ref`)
	if err != nil {
		return err
	}
	defer rows.Close()
	byRef := make(map[string]*credential)
	for rows.Next() {
		var ref string
		var version int64
		var slot sql.NullString
		var sealed []byte
		var setAt sql.NullInt64
		if err := rows.Scan(&ref, &version, &slot, &sealed, &setAt); err != nil {
			return err
		}
		c := byRef[ref]
		if c == nil {
			c = &credential{version: uint64(version), slots: map[string]secret.Secret{}, setAt: map[string]time.Time{}}
			byRef[ref] = c
		}
		if !slot.Valid {
			continue
		}
		c.setAt[slot.String] = fromMicros(setAt.Int64)
		value, err := db.seal.open(credentialPlace(ref, slot.String), sealed)
		if err != nil {
			c.err = fmt.Errorf("slot %q: %w", slot.String, err)
			db.log.Error("registry: a stored secret does not open; set it again", "credential", ref, "slot", slot.String)
			continue
		}
		c.slots[slot.String] = value
	}
	db.credentials.Store(&credentials{byRef})
	return rows.Err()
}

// checkSecret bounds a value to be sealed.
func checkSecret(value secret.Secret) error {
	switch n := len(value.Reveal()); {
	case n == 0:
		return fmt.Errorf("%w: the secret is empty", ErrInvalid)
	case n > maxSecretSize:
		return fmt.Errorf("%w: the secret is longer than %d bytes", ErrInvalid, maxSecretSize)
	}
	return nil
}

// validKey bounds the names things are stored under.
func validKey(key string) bool {
	return key != "" && len(key) <= maxRef && cleanText(key, maxRef) == key && strings.TrimSpace(key) == key
}
