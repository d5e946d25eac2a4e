-- Times are microseconds since 1970, 0 for "never". Addresses and prefixes are
-- text. A column named sealed, or ending in _sealed, is nonce and ciphertext of
-- XChaCha20-Poly1305; see seal.go for what each is bound to.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sealed_settings (
    name   TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE registrations (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT NOT NULL UNIQUE,
    name           TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'blocked', 'revoked')),
    user_code      TEXT NOT NULL,
    public_key     BLOB NOT NULL UNIQUE CHECK (length(public_key) = 32),
    mac_sealed     BLOB,
    psk_sealed     BLOB,
    slot           INTEGER NOT NULL,
    source         TEXT NOT NULL,
    pin4           TEXT NOT NULL,
    pin6           TEXT NOT NULL,
    claimed4       INTEGER NOT NULL,
    claimed6       INTEGER NOT NULL,
    pin_sealed     INTEGER NOT NULL,
    profiles       TEXT NOT NULL, -- JSON array of names
    transport      TEXT NOT NULL,
    endpoint       TEXT NOT NULL,
    last_handshake INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    approved_at    INTEGER NOT NULL,
    blocked_at     INTEGER NOT NULL,
    blocked_reason TEXT NOT NULL,
    revoked_at     INTEGER NOT NULL
) STRICT;

-- Address ranges of expired registrations, which wait a day before they serve again.
CREATE TABLE retired_ranges (
    slot     INTEGER PRIMARY KEY,
    freed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE virtual_addresses (
    registration TEXT NOT NULL REFERENCES registrations (id) ON DELETE CASCADE,
    position     INTEGER NOT NULL,
    host         TEXT NOT NULL,
    last_use     INTEGER NOT NULL,
    PRIMARY KEY (registration, position),
    UNIQUE (registration, host)
) STRICT, WITHOUT ROWID;

-- A credential's row outlives its slots, so that its version never goes back.
CREATE TABLE credentials (
    ref     TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE credential_slots (
    ref    TEXT NOT NULL REFERENCES credentials (ref),
    slot   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    set_at INTEGER NOT NULL,
    PRIMARY KEY (ref, slot)
) STRICT, WITHOUT ROWID;

CREATE TABLE named_secrets (
    name   TEXT PRIMARY KEY,
    sealed BLOB NOT NULL,
    set_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE actions (
    id           INTEGER PRIMARY KEY,
    time         INTEGER NOT NULL,
    registration TEXT NOT NULL,
    profile      TEXT NOT NULL,
    endpoint     TEXT NOT NULL,
    credential   TEXT NOT NULL,
    protocol     TEXT NOT NULL,
    summary      TEXT NOT NULL,
    verdict      TEXT NOT NULL,
    rule         TEXT NOT NULL,
    reason       TEXT NOT NULL
) STRICT;

CREATE INDEX actions_by_time ON actions (time);
CREATE INDEX actions_by_registration ON actions (registration);
CREATE INDEX actions_by_endpoint ON actions (endpoint);
CREATE INDEX actions_not_allowed ON actions (verdict) WHERE verdict <> 'allow';

CREATE TABLE action_results (
    action    INTEGER PRIMARY KEY,
    status    TEXT NOT NULL,
    bytes_in  INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    duration  INTEGER NOT NULL -- nanoseconds
) STRICT;

-- The log is append-only, also towards our own mistakes.
CREATE TRIGGER actions_stay BEFORE UPDATE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER actions_are_kept BEFORE DELETE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_stay BEFORE UPDATE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_are_kept BEFORE DELETE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
