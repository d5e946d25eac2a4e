package dashboard

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"
)

const (
	knownName = "cp_known"
	knownLife = 180 * 24 * time.Hour
)

// knownID names a browser that has logged in before. It opens nothing: it has an
// allowance of attempts of its own, so that whoever guesses from the same source
// cannot keep its operator out.
type knownID [16]byte

// mac proves that this gateway gave id out while hash was the root password's:
// a change of the password makes every browser a stranger. The key, bcrypt's
// salted hash, never leaves the registry, so a cookie says nothing about it.
func (id knownID) mac(hash []byte) []byte {
	m := hmac.New(sha256.New, hash)
	m.Write([]byte("claw patrol: known browser\x00"))
	m.Write(id[:])
	return m.Sum(nil)
}

// known returns the ID in r's cookie, if this gateway gave it out; else zero.
func (d *dashboard) known(r *http.Request) knownID {
	var hash []byte
	for _, c := range r.CookiesNamed(knownName) {
		raw, err := base64.RawURLEncoding.DecodeString(c.Value)
		if err != nil || len(raw) != len(knownID{})+sha256.Size {
			continue
		}
		if hash == nil {
			if hash, err = d.Registry.RootPasswordHash(context.WithoutCancel(r.Context())); err != nil || len(hash) == 0 {
				return knownID{} // who reads the hash next says what is wrong
			}
		}
		id := knownID(raw)
		if hmac.Equal(raw[len(id):], id.mac(hash)) {
			return id
		}
	}
	return knownID{}
}

// remember makes the browser that sent r a known one. A cookie that it has keeps
// its ID: allowances are not to be had by logging in often.
func (d *dashboard) remember(w http.ResponseWriter, r *http.Request, id knownID) {
	hash, err := d.Registry.RootPasswordHash(context.WithoutCancel(r.Context()))
	if err != nil || len(hash) == 0 {
		return // it stays a stranger
	}
	if id == (knownID{}) {
		rand.Read(id[:])
	}
	c := d.cookie(base64.RawURLEncoding.EncodeToString(append(id[:], id.mac(hash)...)), int(knownLife.Seconds()))
	c.Name = knownName
	http.SetCookie(w, c)
}

// caller is who sent r, as the limits count.
func (d *dashboard) caller(r *http.Request) caller {
	return caller{addr: source(r), owner: d.ownerOf(r), known: d.known(r)}
}
