package registry

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	maxHostKey  = 16 << 10 // bytes of a host key in SSH's wire format
	maxHostName = 256      // bytes
)

// HostKey is the key of an SSH host that an operator accepted.
type HostKey struct {
	Endpoint   string // the endpoint's reference
	Host       string // canonical
	Port       uint16
	Key        []byte // in SSH's wire format (RFC 4253, section 6.6)
	Approval   ApprovalID
	AcceptedAt time.Time
}

// HostKeyDetail is the Detail of an approval of kind "host_key": what operators
// compare. Fingerprints are as OpenSSH prints them, "SHA256:…".
type HostKeyDetail struct {
	Host        string   `json:"host"`
	Port        uint16   `json:"port"`
	KeyType     string   `json:"key_type"` // "ssh-ed25519"
	Key         string   `json:"key"`      // as in a .pub file
	Fingerprint string   `json:"fingerprint"`
	Known       []string `json:"known"` // the fingerprints that were expected; none: the host is new
}

func (k HostKey) valid() bool {
	return len(k.Key) > 0 && len(k.Key) <= maxHostKey && k.Port != 0 &&
		k.Host != "" && len(k.Host) <= maxHostName && cleanText(k.Host, maxHostName) == k.Host
}

// same reports whether two keys are the same of the same host.
func (k HostKey) same(other HostKey) bool {
	return k.Host == other.Host && k.Port == other.Port && bytes.Equal(k.Key, other.Key)
}

// hostKeys are the accepted keys, immutable.
type hostKeys struct{ byPlace map[hostKeyPlace]HostKey }

type hostKeyPlace struct {
	endpoint, host string
	port           uint16
}

func (k HostKey) place() hostKeyPlace { return hostKeyPlace{k.Endpoint, k.Host, k.Port} }

func (ks *hostKeys) with(k HostKey) *hostKeys {
	byPlace := maps.Clone(ks.byPlace)
	byPlace[k.place()] = k
	return &hostKeys{byPlace}
}

// HostKeys returns the keys that operators accepted for a host of an endpoint, in
// SSH's wire format, from memory: at present one at most. The caller must not
// change them.
func (db *DB) HostKeys(endpoint, host string, port uint16) [][]byte {
	k, ok := db.approvals.keys.Load().byPlace[hostKeyPlace{endpoint, host, port}]
	if !ok {
		return nil
	}
	return [][]byte{k.Key}
}

// AcceptedHostKeys lists what operators accepted, by endpoint, host and port.
func (db *DB) AcceptedHostKeys() []HostKey {
	return slices.SortedFunc(maps.Values(db.approvals.keys.Load().byPlace), func(a, b HostKey) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
}

// ForgetHostKey undoes an acceptance: the next connection asks again. Where there
// is none it is ErrNoApproval.
func (db *DB) ForgetHostKey(ctx context.Context, endpoint, host string, port uint16) error {
	place := hostKeyPlace{endpoint, host, port}
	err := func() error {
		end, err := db.begin(ctx)
		if err != nil {
			return err
		}
		defer end()
		old := db.approvals.keys.Load()
		if _, ok := old.byPlace[place]; !ok {
			return ErrNoApproval
		}
		err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "DELETE FROM host_keys WHERE endpoint = ? AND host = ? AND port = ?", endpoint, host, port)
			return err
		})
		if err != nil {
			return err
		}
		byPlace := maps.Clone(old.byPlace)
		delete(byPlace, place)
		db.approvals.keys.Store(&hostKeys{byPlace})
		return nil
	}()
	if err != nil {
		return fmt.Errorf("forgetting the host key of %s port %d: %w", host, port, err)
	}
	return nil
}

// storeHostKey replaces what was accepted for the host before.
func storeHostKey(ctx context.Context, tx *sql.Tx, k HostKey) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO host_keys (endpoint, host, port, key, approval, accepted_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (endpoint, host, port) DO UPDATE SET key = excluded.key, approval = excluded.approval, accepted_at = excluded.accepted_at`,
		k.Endpoint, k.Host, k.Port, k.Key, k.Approval, micros(k.AcceptedAt))
	return err
}

// forgetHostKeys undoes every acceptance.
func forgetHostKeys(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM host_keys")
	return err
}

// rereadHostKeys makes memory what the disk has.
func (db *DB) rereadHostKeys(ctx context.Context) error {
	end, err := db.begin(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	defer end()
	return db.loadHostKeys(context.WithoutCancel(ctx))
}

func (db *DB) loadHostKeys(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT endpoint, host, port, key, approval, accepted_at FROM host_keys")
	if err != nil {
		return err
	}
	defer rows.Close()
	byPlace := make(map[hostKeyPlace]HostKey)
	for rows.Next() {
		var k HostKey
		var accepted int64
		if err := rows.Scan(&k.Endpoint, &k.Host, &k.Port, &k.Key, &k.Approval, &accepted); err != nil {
			return err
		}
		k.AcceptedAt = fromMicros(accepted)
		byPlace[k.place()] = k
	}
	db.approvals.keys.Store(&hostKeys{byPlace})
	return rows.Err()
}
