package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits of invites.
const (
	maxInvites      = 1000                // in force at a time
	inviteKept      = 30 * 24 * time.Hour // after an invite's end, for who asks what became of it
	maxEndedInvites = 1000                // kept that long; beyond them the oldest go
	maxInviteID     = 64                  // bytes
	maxInviteBy     = 128                 // bytes
)

// InviteID names an invite. It is no secret: it is a hash of what is.
type InviteID string

// Invite is a permission to enrol, as a value nobody changes. The registry has no
// token of it.
type Invite struct {
	ID       InviteID
	Profiles []string     // an approval given in advance; none: an operator approves
	Source   netip.Prefix // where start has to come from; zero: anywhere
	Uses     int          // registrations it can make
	Used     int
	MadeBy   string // which operator, for operators

	CreatedAt, ExpiresAt time.Time
	LastUsedAt, VoidedAt time.Time // zero: never
}

// inviteKeyName is the sealed setting that InviteKey keeps.
const inviteKeyName = "invite_key"

// InviteKey returns the key that signs invites, made on first use and sealed.
func (db *DB) InviteKey(ctx context.Context) (secret.Secret, error) {
	var key secret.Secret
	end, err := db.begin(ctx)
	if err == nil {
		defer end()
		err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			var err error
			if key, err = db.sealedSetting(ctx, tx, inviteKeyName); err != nil || !key.IsZero() {
				return err
			}
			random := make([]byte, 32)
			rand.Read(random)
			defer clear(random)
			key = secret.New(random)
			return db.setSealedSetting(ctx, tx, inviteKeyName, random)
		})
	}
	if err != nil {
		return secret.Secret{}, fmt.Errorf("loading the key that signs invites: %w", err)
	}
	return key, nil
}

// AddInvite stores a new invite, not used yet. At most 1000 are in force at a
// time (ErrTooManyInvites).
func (db *DB) AddInvite(ctx context.Context, i Invite) error {
	err := func() error {
		profiles, err := cleanProfiles(i.Profiles)
		if err != nil {
			return err
		}
		names, err := namesJSON(profiles)
		if err != nil {
			return err
		}
		if i.ID == "" || len(i.ID) > maxInviteID || i.Uses < 1 || i.ExpiresAt.IsZero() {
			return fmt.Errorf("%w: an invite without an ID, uses or an end", ErrInvalid)
		}
		first, last := sourceBounds(i.Source)
		end, err := db.begin(ctx)
		if err != nil {
			return err
		}
		defer end()
		now := db.clock()
		return db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			if err := forgetInvites(ctx, tx, now); err != nil {
				return err
			}
			var good int
			if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM invites WHERE voided_at = 0 AND used < uses AND expires_at > ?", micros(now)).Scan(&good); err != nil {
				return err
			}
			if good >= maxInvites {
				return ErrTooManyInvites
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO invites (id, profiles, source, source_first, source_last,
					uses, used, made_by, created_at, expires_at, last_used_at, voided_at)
				VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, 0)`,
				i.ID, names, prefixText(i.Source), first, last,
				i.Uses, cleanText(i.MadeBy, maxInviteBy), micros(now), micros(i.ExpiresAt))
			return err
		})
	}()
	if err != nil {
		return fmt.Errorf("storing an invite: %w", err)
	}
	return nil
}

// forgetInvites removes what ended long ago, and of what else has ended all but
// the newest.
func forgetInvites(ctx context.Context, tx *sql.Tx, now time.Time) error {
	_, err := tx.ExecContext(ctx, `WITH ended AS (SELECT seq, expires_at FROM invites WHERE expires_at <= ?1 OR voided_at <> 0 OR used = uses)
		DELETE FROM invites WHERE seq IN (SELECT seq FROM ended)
			AND (expires_at <= ?2 OR seq NOT IN (SELECT seq FROM ended ORDER BY seq DESC LIMIT ?3))`,
		micros(now), micros(now.Add(-inviteKept)), maxEndedInvites)
	return err
}

// useInvite uses an invite once and returns the profiles it approves. That it is
// good, and that it is used, is one statement: of two that use it at the same
// instant, one finds it used. ErrInvite says no more than that it is not good.
func useInvite(ctx context.Context, tx *sql.Tx, id InviteID, source netip.Addr, now time.Time) ([]string, error) {
	var names string
	err := tx.QueryRowContext(ctx, `UPDATE invites SET used = used + 1, last_used_at = ?2
		WHERE id = ?1 AND voided_at = 0 AND used < uses AND expires_at > ?2 AND ?3 BETWEEN source_first AND source_last
		RETURNING profiles`, id, micros(now), addrKey(source)).Scan(&names)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrInvite
	}
	if err != nil {
		return nil, err
	}
	var profiles []string
	err = json.Unmarshal([]byte(names), &profiles)
	return profiles, err
}

// ApproveInvited approves a pending registration with the profiles of the invite
// it was made with (Registration.Invited), and seals its pin. Where there are
// none, for example because the invite has been voided since, it is ErrState.
func (db *DB) ApproveInvited(ctx context.Context, id ID) error {
	return db.change(ctx, "approving", id, func(_ *Snapshot, r *record, now time.Time) (bool, error) {
		if r.State != Pending || len(r.Invited) == 0 {
			return false, fmt.Errorf("%w: no approval was given in advance", ErrState)
		}
		r.approve(r.Invited, now)
		return true, nil
	})
}

// VoidInvite ends an invite. Registrations it made stay; those among them that
// are still pending wait for an operator. Voiding twice changes nothing.
func (db *DB) VoidInvite(ctx context.Context, id InviteID) error {
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		a := amendment{first: func(ctx context.Context, tx *sql.Tx) error {
			res, err := tx.ExecContext(ctx, "UPDATE invites SET voided_at = iif(voided_at = 0, ?, voided_at) WHERE id = ?", micros(now), id)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return errors.Join(err, ErrInvite)
			}
			return nil
		}}
		for _, r := range s.all {
			if r.Invite == id && len(r.Invited) > 0 {
				next := *r
				next.Invited = nil
				a.put = append(a.put, &next)
			}
		}
		return a, nil
	})
	if err != nil {
		return fmt.Errorf("voiding invite %q: %w", id, err)
	}
	return nil
}

// voidInvites ends every invite.
func voidInvites(ctx context.Context, tx *sql.Tx, now time.Time) error {
	_, err := tx.ExecContext(ctx, "UPDATE invites SET voided_at = ? WHERE voided_at = 0", micros(now))
	return err
}

// Invites lists the invites in force and those that ended in the last 30 days,
// newest first: 2000 at most.
func (db *DB) Invites(ctx context.Context) ([]Invite, error) {
	invites, err := db.invites(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the invites: %w", err)
	}
	return invites, nil
}

func (db *DB) invites(ctx context.Context) ([]Invite, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT id, profiles, source, uses, used, made_by, created_at, expires_at, last_used_at, voided_at
		FROM invites WHERE expires_at > ? ORDER BY seq DESC LIMIT ?`, micros(db.clock().Add(-inviteKept)), maxInvites+maxEndedInvites)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Invite
	for rows.Next() {
		var i Invite
		var names, source string
		var created, expires, used, voided int64
		if err := rows.Scan(&i.ID, &names, &source, &i.Uses, &i.Used, &i.MadeBy, &created, &expires, &used, &voided); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(names), &i.Profiles); err != nil {
			return nil, err
		}
		if source != "" {
			if i.Source, err = netip.ParsePrefix(source); err != nil {
				return nil, err
			}
		}
		i.CreatedAt, i.ExpiresAt, i.LastUsedAt, i.VoidedAt = fromMicros(created), fromMicros(expires), fromMicros(used), fromMicros(voided)
		all = append(all, i)
	}
	return all, rows.Err()
}

// addrKey is an address as 17 bytes that compare as the addresses of its family
// do: the family, then the address.
func addrKey(a netip.Addr) []byte {
	a = a.Unmap().WithZone("")
	b := make([]byte, 17)
	b[0] = byte(a.BitLen() / 8)
	copy(b[1:], a.AsSlice())
	return b
}

// sourceBounds are the least and the greatest addrKey within p; of the zero
// Prefix, of every address.
func sourceBounds(p netip.Prefix) (first, last []byte) {
	first, last = make([]byte, 17), make([]byte, 17)
	if !p.IsValid() {
		for i := range last {
			last[i] = 0xff
		}
		return first, last
	}
	copy(first, addrKey(p.Masked().Addr()))
	copy(last, first)
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[1+bit/8] |= 0x80 >> (bit % 8)
	}
	return first, last
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.Masked().String()
}
