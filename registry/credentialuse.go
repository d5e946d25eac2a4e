package registry

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"time"
)

// Limits of what is kept about the use of credentials.
const (
	maxCredentialUses     = 1 << 16 // pairs of a credential and a registration; beyond, those that were longest ago go
	maxSavedUses          = 2048    // stored at once: whoever waits to write waits for little more
	credentialUseInterval = 10 * time.Second
)

// CredentialUse is when a registration last had an action allowed with a
// credential.
type CredentialUse struct {
	Credential   string // ref
	Registration ID
	Time         time.Time
}

// credentialUses is the last uses, and which of them are yet to be stored.
type credentialUses map[credentialUser]credentialUsed

type credentialUser struct {
	credential   string
	registration ID
}

type credentialUsed struct {
	at      time.Time
	unsaved bool
}

func (u credentialUses) used(credential string, registration ID, at time.Time) {
	key := credentialUser{credential, registration}
	before, ok := u[key]
	if ok && !at.After(before.at) {
		return
	}
	if !ok && len(u) >= maxCredentialUses {
		u.dropOldest()
	}
	u[key] = credentialUsed{at, true}
}

// dropOldest makes room: an eighth of all goes at once, since all are looked at.
func (u credentialUses) dropOldest() {
	keys := slices.SortedFunc(maps.Keys(u), func(a, b credentialUser) int { return u[a].at.Compare(u[b].at) })
	for _, key := range keys[:len(keys)/8] {
		delete(u, key)
	}
}

// CredentialUses returns when each registration last used each credential, by
// credential and then latest first. It reads memory only, and goes back further
// than the action log.
func (db *DB) CredentialUses() []CredentialUse {
	db.stats.mu.Lock()
	defer db.stats.mu.Unlock()
	list := make([]CredentialUse, 0, len(db.stats.uses))
	for key, use := range db.stats.uses {
		list = append(list, CredentialUse{key.credential, key.registration, use.at})
	}
	slices.SortFunc(list, func(a, b CredentialUse) int {
		return cmp.Or(cmp.Compare(a.Credential, b.Credential), b.Time.Compare(a.Time), cmp.Compare(a.Registration, b.Registration))
	})
	return list
}

func (db *DB) loadCredentialUses(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT credential, registration, time FROM credential_uses ORDER BY time DESC LIMIT ?", maxCredentialUses)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key credentialUser
		var at int64
		if err := rows.Scan(&key.credential, &key.registration, &at); err != nil {
			return err
		}
		db.stats.uses[key] = credentialUsed{at: fromMicros(at)}
	}
	return rows.Err()
}

// saveCredentialUses stores what was used since the last call, at most every
// interval; 0: all of it, now. The caller holds writing.
func (db *DB) saveCredentialUses(ctx context.Context, now time.Time, interval time.Duration) error {
	if since := now.Sub(db.usesSaved); since >= 0 && since < interval {
		return nil
	}
	unsaved := make(credentialUses)
	db.stats.mu.Lock()
	full := len(db.stats.uses) >= maxCredentialUses
	for key, use := range db.stats.uses {
		if use.unsaved && (len(unsaved) < maxSavedUses || interval == 0) {
			unsaved[key] = use
		}
	}
	db.stats.mu.Unlock()
	if len(unsaved) < maxSavedUses { // otherwise the rest follows with the next call
		db.usesSaved = now
	}
	if len(unsaved) == 0 {
		return nil
	}
	err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, `INSERT INTO credential_uses (credential, registration, time) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET time = max(time, excluded.time)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for key, use := range unsaved {
			if _, err := insert.ExecContext(ctx, key.credential, key.registration, micros(use.at)); err != nil {
				return err
			}
		}
		if full {
			_, err = tx.ExecContext(ctx, `DELETE FROM credential_uses WHERE (credential, registration) NOT IN
				(SELECT credential, registration FROM credential_uses ORDER BY time DESC LIMIT ?)`, maxCredentialUses)
		}
		return err
	})
	if err != nil {
		return err
	}
	db.stats.mu.Lock()
	defer db.stats.mu.Unlock()
	for key, use := range unsaved {
		if db.stats.uses[key] == use { // not used again since
			use.unsaved = false
			db.stats.uses[key] = use
		}
	}
	return nil
}
