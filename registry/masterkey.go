package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/clawpatrol/clawpatrol/secret"
)

// systemdMasterKey is the name under $CREDENTIALS_DIRECTORY (systemd.exec(5),
// LoadCredential=) that takes the place of master.key.
const systemdMasterKey = "clawpatrol-master-key"

// checkPlace holds a known value sealed with the master key: whether it opens
// tells a right key from a wrong one before anything is read or written.
var checkPlace = place{kindSetting, "master_key_check", "sealed"}

const checkValue = "clawpatrol"

// unlock finds the master key and proves that it is this database's. A new
// database gets a new key where there is none; an old one never does.
func unlock(ctx context.Context, db *sql.DB, dir string) (sealer, error) {
	var check []byte
	err := db.QueryRowContext(ctx, "SELECT sealed FROM sealed_settings WHERE name = ?", checkPlace.ref).Scan(&check)
	fresh := errors.Is(err, sql.ErrNoRows)
	if err != nil && !fresh {
		return sealer{}, err
	}
	if fresh {
		// The check is written before anything else is ever sealed, so a
		// database with sealed values and no check has been tampered with.
		var sealed int
		if err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM sealed_settings) +
			(SELECT count(*) FROM registrations) + (SELECT count(*) FROM credential_slots) +
			(SELECT count(*) FROM named_secrets)`).Scan(&sealed); err != nil {
			return sealer{}, err
		}
		fresh = sealed == 0
	}
	master, from, err := loadMasterKey(dir)
	if err != nil {
		return sealer{}, err
	}
	if master.IsZero() {
		if !fresh {
			return sealer{}, &OpenError{Err: ErrMasterKey,
				Detail: fmt.Sprintf("the master key of the existing database is missing: %s does not exist", filepath.Join(dir, fileMasterKey)),
				Advice: "restore master.key from your backup (mode 0600), or provide it as systemd credential " + systemdMasterKey}
		}
		if master, err = createMasterKey(dir); err != nil {
			return sealer{}, fmt.Errorf("creating the master key: %w", err)
		}
	}
	s, err := newSealer(master)
	if err != nil {
		return sealer{}, err
	}
	if fresh {
		_, err := db.ExecContext(ctx, "INSERT INTO sealed_settings (name, sealed) VALUES (?, ?)",
			checkPlace.ref, s.seal(checkPlace, []byte(checkValue)))
		return s, err
	}
	if got, err := s.open(checkPlace, check); err != nil || string(got.Reveal()) != checkValue {
		return sealer{}, &OpenError{Err: ErrMasterKey,
			Detail: fmt.Sprintf("the master key in %s is not the one this database was sealed with", from),
			Advice: "restore the master key that belongs to this database from your backup"}
	}
	return s, nil
}

// loadMasterKey reads the master key: systemd's where there is one, else
// master.key. It returns a zero Secret where there is neither.
func loadMasterKey(dir string) (key secret.Secret, from string, err error) {
	if creds := os.Getenv("CREDENTIALS_DIRECTORY"); creds != "" {
		// Mode and owner of this file are systemd's business.
		path := filepath.Join(creds, systemdMasterKey)
		key, err := readMasterKey(path)
		if err != nil || !key.IsZero() {
			return key, path, err
		}
	}
	path := filepath.Join(dir, fileMasterKey)
	if err := checkFile(path); err != nil {
		return secret.Secret{}, path, err
	}
	key, err = readMasterKey(path)
	return key, path, err
}

func readMasterKey(path string) (secret.Secret, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Secret{}, nil
	}
	if err != nil {
		return secret.Secret{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, masterKeySize+1))
	if err != nil {
		return secret.Secret{}, err
	}
	defer clear(b)
	if len(b) != masterKeySize {
		return secret.Secret{}, &OpenError{Err: ErrMasterKey,
			Detail: fmt.Sprintf("%s does not hold exactly %d bytes", path, masterKeySize),
			Advice: "restore the master key from your backup; a new one is made with: openssl rand -out FILE 32"}
	}
	return secret.New(b), nil
}

// createMasterKey writes a new key. The file appears whole and durable or not
// at all. The caller holds the directory's lock.
func createMasterKey(dir string) (secret.Secret, error) {
	key := make([]byte, masterKeySize)
	rand.Read(key)
	defer clear(key)
	f, err := os.CreateTemp(dir, fileMasterKey+".new-*") // mode 0600
	if err != nil {
		return secret.Secret{}, err
	}
	defer os.Remove(f.Name()) // fails once renamed
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, fileMasterKey))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return secret.Secret{}, err
	}
	return secret.New(key), nil
}
