package registry

import (
	"context"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// SetCredential seals the given slots of the credential ref ("bearer.github")
// and raises its version. Slots not named keep their value.
func (db *DB) SetCredential(ctx context.Context, ref string, slots map[string]secret.Secret) error {
	panic("registry: not built yet")
}

// ClearCredential removes every slot of ref.
func (db *DB) ClearCredential(ctx context.Context, ref string) error {
	panic("registry: not built yet")
}

// CredentialStatus says what is stored for a credential: never a value.
type CredentialStatus struct {
	Ref     string
	Version uint64 // raised by every change; 0: nothing was ever stored
	Slots   map[string]time.Time
}

// Credentials lists what is stored, by ref.
func (db *DB) Credentials(ctx context.Context) ([]CredentialStatus, error) {
	panic("registry: not built yet")
}

// CredentialVersion returns ref's present version from memory.
func (db *DB) CredentialVersion(ref string) uint64 { panic("registry: not built yet") }

// Released is a credential's secrets, handed out by Release only.
type Released struct {
	Action  int64 // the log row that recorded the release
	Version uint64
	Slots   map[string]secret.Secret
}

// Release is the one way from the registry to a credential's secret. It queues
// row on the action log first, waiting while the queue is full, and only then
// returns the secrets of row.Credential. No row, no secret: if the row cannot
// be queued or the log has failed, Release fails. A credential with nothing
// stored is not an error: Slots is empty.
func (db *DB) Release(ctx context.Context, row Action) (Released, error) {
	panic("registry: not built yet")
}

// SetSecret seals a named secret, read by {{secret:NAME}}.
func (db *DB) SetSecret(ctx context.Context, name string, value secret.Secret) error {
	panic("registry: not built yet")
}

// NamedSecret returns what SetSecret stored, or a zero Secret.
func (db *DB) NamedSecret(name string) secret.Secret { panic("registry: not built yet") }
