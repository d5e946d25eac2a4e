package registry

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite" // also the "sqlite" driver
	sqlite3 "modernc.org/sqlite/lib"
)

// applicationID marks our files in SQLite's header ("clwp"), so that another
// program's database is not taken for ours.
const applicationID = 0x636c7770

//go:embed migrations/*.sql
var embedded embed.FS

// openSQLite opens the two pools. Pragmas stand in the DSN because each new
// connection of a pool must get them.
func openSQLite(path string) (write, read *sql.DB, err error) {
	dsn := func(pragmas ...string) string {
		q := url.Values{"_pragma": append([]string{
			"busy_timeout(5000)", // milliseconds; only another process can hold the lock
			"foreign_keys(1)",
			"trusted_schema(0)",
			"temp_store(2)", // in memory: nothing of ours in temporary files
		}, pragmas...)}
		// Immediate, so that a transaction never fails halfway for a lock.
		q.Set("_txlock", "immediate")
		return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
	}
	write, err = sql.Open("sqlite", dsn(
		"journal_mode(WAL)",
		"synchronous(FULL)", // in WAL mode: the log is synced at each commit
		"secure_delete(1)",
		"journal_size_limit(67108864)", // bytes the -wal file is cut back to
	))
	if err != nil {
		return nil, nil, err
	}
	write.SetMaxOpenConns(1)
	read, err = sql.Open("sqlite", dsn("query_only(1)"))
	if err != nil {
		return nil, nil, err
	}
	read.SetMaxOpenConns(4)
	return write, read, nil
}

// migrate brings the schema up to date: migrations/NNNN_name.sql in order, each
// in one transaction together with its number in user_version.
func migrate(ctx context.Context, db *sql.DB, files fs.FS) error {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return err
	}
	var have, app int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return err
	}
	if have > 0 && app != applicationID {
		return damaged(fmt.Sprintf("clawpatrol.db is another program's database (application id %#x)", app), nil)
	}
	if have > len(names) {
		return &OpenError{
			Err:    ErrNewerSchema,
			Detail: fmt.Sprintf("the database has schema %d, this clawpatrol knows up to %d", have, len(names)),
			Advice: "start the clawpatrol version that wrote it, or a newer one; to go back, restore state_dir from a backup of that time",
		}
	}
	for i, name := range names {
		version := i + 1
		number, _, _ := strings.Cut(filepath.Base(name), "_")
		if n, err := strconv.Atoi(number); err != nil || n != version {
			return fmt.Errorf("migration %s is out of order: want number %d", name, version)
		}
		if version <= have {
			continue
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := migrateOne(ctx, db, string(text), version); err != nil {
			return fmt.Errorf("migrating to schema %d: %w", version, err)
		}
	}
	return nil
}

// damaged is the error for a database that cannot be used as it is.
func damaged(detail string, cause error) error {
	return &OpenError{
		Err:    errors.Join(ErrDamaged, cause),
		Detail: detail,
		Advice: "move the file away and restore state_dir from a backup",
	}
}

// readable turns SQLite's complaints about the file itself into ErrDamaged, and
// anybody's about a full disk into ErrDiskFull.
func readable(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		if errors.Is(err, unix.ENOSPC) {
			return diskFull(err)
		}
		return err
	}
	switch e.Code() {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE: // the latter is how a full disk meets the -shm file
		return diskFull(err)
	}
	switch e.Code() & 0xff { // the primary code
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return damaged("clawpatrol.db is damaged: "+e.Error(), err)
	}
	return err
}

func diskFull(cause error) error {
	return &OpenError{
		Err:    errors.Join(ErrDiskFull, cause),
		Detail: "the disk that state_dir is on is full: " + cause.Error(),
		Advice: "make some room there; what the action log takes is set in gateway.hcl's action_log block",
	}
}

func migrateOne(ctx context.Context, db *sql.DB, text string, version int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// Both numbers live in the file's header and obey the transaction.
	text += fmt.Sprintf(";\nPRAGMA user_version = %d;\nPRAGMA application_id = %d;", version, applicationID)
	if _, err := tx.ExecContext(ctx, text); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}
