package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"

	"github.com/clawpatrol/clawpatrol/secret"
)

const sshSeedName = "ssh_seed"

// sshSeedSize is the seed's length in bytes: as much entropy as an ed25519 key
// has.
const sshSeedSize = 32

// SSHSeed returns what the gateway's SSH keys are derived from, 32 bytes: its SSH
// CA and the host keys it shows to agents. It is made and sealed on first use,
// and never changes: agent hosts trust those keys.
func (db *DB) SSHSeed(ctx context.Context) (secret.Secret, error) {
	seed, err := db.sshSeed(ctx)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("reading the SSH seed: %w", err)
	}
	return seed, nil
}

func (db *DB) sshSeed(ctx context.Context) (secret.Secret, error) {
	end, err := db.begin(ctx)
	if err != nil {
		return secret.Secret{}, err
	}
	defer end()
	var seed secret.Secret
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		seed, err = db.sealedSetting(ctx, tx, sshSeedName)
		if err != nil || !seed.IsZero() {
			return err
		}
		b := make([]byte, sshSeedSize)
		rand.Read(b)
		defer clear(b)
		seed = secret.New(b)
		return db.setSealedSetting(ctx, tx, sshSeedName, b)
	})
	return seed, err
}
