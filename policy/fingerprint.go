package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// fingerprint hashes settings in a canonical encoding: every setting is the
// number of its parts, then each part behind its length, so that no two
// different lists of settings read the same. No setting is a secret.
type fingerprint struct{ h hash.Hash }

func newFingerprint(kind string, parts ...string) fingerprint {
	f := fingerprint{sha256.New()}
	f.add("clawpatrol-"+kind+"-v1", parts...)
	return f
}

func (f fingerprint) add(setting string, parts ...string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(parts)))
	f.h.Write(n[:])
	for _, p := range append([]string{setting}, parts...) {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		f.h.Write(n[:])
		f.h.Write([]byte(p))
	}
}

func (f fingerprint) sum() string { return hex.EncodeToString(f.h.Sum(nil)) }
