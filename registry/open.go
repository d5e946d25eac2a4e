package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// tendInterval is how often expired registrations are looked for and what is
// written lazily is written.
const tendInterval = time.Second

// Open opens or creates clawpatrol.db in cfg.Dir, and master.key beside it.
// Where the operator can do something about a failure, the error is an
// *OpenError with a hint.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	db, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening registry: %w", readable(err))
	}
	return db, nil
}

func open(ctx context.Context, cfg Config) (_ *DB, err error) {
	db := &DB{
		log:     cfg.Log,
		now:     cfg.Now,
		writing: make(chan struct{}, 1),
		retired: make(map[int]time.Time),
		unsaved: make(map[ID]bool),
		closing: make(chan struct{}),
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if db.now == nil {
		db.now = time.Now
	}
	db.vitals = newVitals(db.now())
	db.stats = newActionStats()
	if db.plan, err = newAddressPlan(cfg.Subnets); err != nil {
		return nil, &OpenError{Err: ErrSubnets, Detail: "dividing the tunnel subnets: " + err.Error(),
			Advice: `set wireguard.subnets to one IPv4 and one IPv6 prefix, such as ["10.55.0.0/16", "fd55:c1a5::/48"]`}
	}
	if err := cfg.Retention.check(); err != nil {
		return nil, err
	}
	if err := prepareDir(cfg.Dir); err != nil {
		return nil, err
	}
	// SQLite takes the path as a URI, where a relative one begins with a host.
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if db.lock, err = lockDir(cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = db.closeFiles() // err says more
		}
	}()
	path := filepath.Join(cfg.Dir, fileDB)
	if err := createDBFile(path); err != nil {
		return nil, err
	}
	if db.write, db.read, err = openSQLite(path); err != nil {
		return nil, err
	}
	if err := migrate(ctx, db.write, embedded); err != nil {
		return nil, err
	}
	if db.seal, err = unlock(ctx, db.write, cfg.Dir); err != nil {
		return nil, err
	}
	for _, load := range []func(context.Context) error{
		db.checkSubnets, db.loadRemovals, db.loadRegistrations, db.loadVirtual, db.loadCredentials, db.loadNamed, db.loadSessions,
		db.loadApprovals, db.loadHostKeys, db.loadCredentialUses, db.loadGrants,
	} {
		if err := load(ctx); err != nil {
			return nil, err
		}
	}
	if err := db.expire(ctx, db.clock()); err != nil {
		db.log.Error("registry: removing expired registrations failed", "err", err) // and is tried again
	}
	keep, err := newRetention(ctx, db, cfg.Dir, cfg.Retention)
	if err != nil {
		return nil, err
	}
	if db.actions, err = openActionLog(ctx, db, keep); err != nil {
		return nil, err
	}
	last := db.LastAction()
	db.tending.Go(func() { db.tendStats(last) })
	db.tending.Go(db.tend)
	return db, nil
}

// checkSubnets refuses other subnets than the ones registrations got their
// addresses from: agent hosts have those configured.
func (db *DB) checkSubnets(ctx context.Context) error {
	now := db.plan.subnet4.String() + " " + db.plan.subnet6.String()
	var before string
	err := db.write.QueryRowContext(ctx, "SELECT value FROM settings WHERE name = 'subnets'").Scan(&before)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if before == now {
		return nil
	}
	var held int
	// One that expired while the gateway was down is about to be removed: whoever
	// can start registrations must not keep the operator from changing subnets.
	if err := db.write.QueryRowContext(ctx, `SELECT count(*) FROM registrations
		WHERE state <> 'revoked' AND (expires_at = 0 OR expires_at > ?)`, micros(db.clock())).Scan(&held); err != nil {
		return err
	}
	if held > 0 {
		return &OpenError{Err: ErrSubnets,
			Detail: fmt.Sprintf("wireguard.subnets is now %s, but %d registrations have addresses in %s", now, held, before),
			Advice: "set wireguard.subnets back; to change it, revoke every registration first and let agent hosts join again"}
	}
	return db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ('subnets', ?)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, now)
		return err
	})
}

// tend is the goroutine that does what no call asks for.
func (db *DB) tend() {
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	said := "" // the last error logged: a full disk would repeat it each second
	for {
		select {
		case <-db.closing:
			return
		case <-tick.C:
			switch err := db.tendOnce(); {
			case err == nil:
				said = ""
			case !errors.Is(err, ErrClosed) && err.Error() != said:
				said = err.Error()
				db.log.Error("registry: storing in the background failed, and is tried again each second", "err", err)
			}
		}
	}
}

func (db *DB) tendOnce() error {
	db.actions.askTidy()
	ctx := context.Background()
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	now := db.clock()
	return errors.Join(
		db.expire(ctx, now),
		db.blockDormant(ctx, now),
		db.saveUnsaved(ctx, now),
		db.expireApprovals(now),
		db.saveVirtualUse(ctx, now, virtualUseInterval),
		db.saveCredentialUses(ctx, now, credentialUseInterval),
	)
}

// Close flushes the action log and closes the database. Calls in progress
// finish or fail with ErrClosed.
func (db *DB) Close() error {
	db.closed.Do(func() {
		close(db.closing)
		db.tending.Wait()
		logErr := db.actions.close()
		db.writing <- struct{}{} // never given back: nothing is written from here on
		ctx := context.Background()
		err := errors.Join(logErr,
			db.saveUnsaved(ctx, db.clock()),
			db.saveVirtualUse(ctx, db.clock(), 0),
			db.saveCredentialUses(ctx, db.clock(), 0),
			db.saveGrants(),
			db.closeFiles())
		if err != nil {
			db.closeErr = fmt.Errorf("closing registry: %w", err)
		}
	})
	return db.closeErr
}

// closeFiles closes what is open, the lock last.
func (db *DB) closeFiles() error {
	var errs []error
	if db.read != nil {
		errs = append(errs, db.read.Close())
	}
	if db.write != nil {
		errs = append(errs, db.write.Close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}
