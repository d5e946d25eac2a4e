package ssh

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/secret"
)

// maxKeys is how many opened keys are kept: more than policies have.
const maxKeys = 1024

// keys opens private keys. Those with a passphrase are made to take long, a good
// part of a second, which an agent could ask for as often as it connects. So what
// came of that is kept, failures too, as long as key and passphrase are the same.
type keys struct {
	mu   sync.Mutex // held while one is opened, so that each is opened once
	seal []byte     // keys the fingerprints below
	of   map[string]opened

	times int // that one was opened: for tests
}

// opened is what came of a credential's key.
type opened struct {
	print  [sha256.Size]byte // of key and passphrase
	signer xssh.Signer
	err    error
}

// open returns the signer of a credential's key; passphrase may be zero. Errors may
// quote the key.
func (k *keys) open(ref string, key, passphrase secret.Secret) (xssh.Signer, error) {
	if len(passphrase.Reveal()) == 0 {
		return xssh.ParsePrivateKey(key.Reveal())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seal == nil || len(k.of) >= maxKeys {
		k.seal, k.of = make([]byte, sha256.Size), make(map[string]opened)
		_, _ = rand.Read(k.seal) // never fails
	}
	h := hmac.New(sha256.New, k.seal)
	inner := sha256.Sum256(key.Reveal())
	h.Write(inner[:])
	h.Write(passphrase.Reveal())
	var print [sha256.Size]byte
	h.Sum(print[:0])
	if found, ok := k.of[ref]; ok && found.print == print {
		return found.signer, found.err
	}
	k.times++
	signer, err := xssh.ParsePrivateKeyWithPassphrase(key.Reveal(), passphrase.Reveal())
	k.of[ref] = opened{print, signer, err}
	return signer, err
}
