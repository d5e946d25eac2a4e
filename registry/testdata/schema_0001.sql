-- A database of the first release, sealed with the master key 00 01 02 … 1f.
-- Never change this file: it is what TestMigrate_OldestSchemaOpens starts from.

PRAGMA application_id = 0x636c7770;
PRAGMA user_version = 1;

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
CREATE TABLE action_results (
    action    INTEGER PRIMARY KEY,
    status    TEXT NOT NULL,
    bytes_in  INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    duration  INTEGER NOT NULL -- nanoseconds
) STRICT;

INSERT INTO settings VALUES ('subnets', '10.55.0.0/16 fd55:c1a5::/48');
INSERT INTO sealed_settings VALUES ('master_key_check', X'E6B3E95A5456BE612C38EDB10BB07C9453C289C59DC2991D62030DA519AF676AE2D07B3A38797EA42B50655FFB1AB13D1161');
INSERT INTO sealed_settings VALUES ('root_password', X'D11698DA63B22C75CAD6F1523DA4B056E5C28A2AB4347F4C171CD3137E651A03035A6637550640A2C1A04CE8255A8706A91CF6');
INSERT INTO sealed_settings VALUES ('wireguard_private_key', X'7AC7994D0383C239F0F8E050CEEB1164EB67D32EBAC359EE0ACC803D2337FD8B5BA290A6B5AE984477E89A610C755E298197D1CE79654EAFC145CDF1B46EEBC6894C9BB9B9C1BAB0');
INSERT INTO registrations VALUES (1, 'r_5ccfwg4kzw2hvdwag3vx4roasv', 'builder', 'approved', 'CXNQ-WRDG', X'0101000000000000000000000000000000000000000000000000000000000000', X'6933B217DF799A626736CC88C98C0D91479B091029B0FA0D105577FEADA698F4B31E718EFF7A7A769C75A6CB2FD75A708200C39ECBF0764E49D3', X'F41564124BFD770CDCC5C434415D30F34FBD2AC39380F04C84E5A5491B38F5BC75982CD5BD58F6DA0575BCC7EEEAF3782E21F0C7A07D834312001BD4E6B986A9', 1, '192.0.2.1', '192.0.2.1', '2001:db8::1', 1, 1, 1, '["ci","docs"]', 'wireguard', '192.0.2.1:40000', 1772366400000000, 1772366400000000, 0, 1772366400000000, 0, '', 0);
INSERT INTO registrations VALUES (2, 'r_ysi6gssqn3cidrf2kq4abk2nsq', 'tester', 'blocked', 'MKVQ-DPKZ', X'0201000000000000000000000000000000000000000000000000000000000000', X'485E2999BF943939D6B9D828D07F6AE4686598B3A22E564BF8DA8FC83154D9E3C7FF4F2E9C1331C064781F4A93C065BB33CD6024CFAEA328F7', X'B58A38EC01602FDCAAEA2515A16073C47AA550D32FBAE108C18C9175D9F4C0BF0DFF780463851D2CBF8BDBE64986F6865EB5F893AF6C8685A2C3B2AFD50A1D', 2, '192.0.2.2', '192.0.2.2', '', 0, 0, 1, '["ci"]', 'wireguard', '', 0, 1772366400000000, 0, 1772366400000000, 1772366400000000, 'pin violated', 0);
INSERT INTO registrations VALUES (3, 'r_kzuvculvbmzq34ugigohj2thvp', 'docs', 'revoked', 'JVQL-QDQC', X'0301000000000000000000000000000000000000000000000000000000000000', NULL, NULL, 3, '192.0.2.3', '192.0.2.3', '', 0, 0, 0, '[]', 'wireguard', '', 0, 1772366400000000, 0, 0, 0, '', 1772366400000000);
INSERT INTO virtual_addresses VALUES ('r_5ccfwg4kzw2hvdwag3vx4roasv', 1, 'api.github.com', 1772366400000000);
INSERT INTO credentials VALUES ('bearer.github', 2);
INSERT INTO credential_slots VALUES ('bearer.github', 'secret', X'B000C31F7BC89F0B6D3B8FA0706DB60917CCCB54D799ABE525AFFF2EAA8B1FB611D086C9E4F760A3F0588BE4C85D89E74467A3', 1772366400000000);
INSERT INTO named_secrets VALUES ('TS_AUTHKEY', X'1F8EB3EF79C0453471C9793045A771BDA7B7CBE1D6C398512156EACDF798C7A6CC283303D5B68F3C1A0001A7A3', 1772366400000000);
INSERT INTO sessions VALUES (1, X'0100000000000000000000000000000000000000000000000000000000000000', 1772370000000000);
INSERT INTO actions VALUES (1, 1772366400000000, 'r_5ccfwg4kzw2hvdwag3vx4roasv', 'ci', 'https.github', 'bearer.github', 'https', 'GET api.github.com/user', 'allow', '', '');
INSERT INTO action_results VALUES (1, '200', 7, 42, 1000000000);

CREATE INDEX actions_by_time ON actions (time);
CREATE INDEX actions_by_registration ON actions (registration);
CREATE INDEX actions_by_endpoint ON actions (endpoint);
CREATE INDEX actions_not_allowed ON actions (verdict) WHERE verdict <> 'allow';
CREATE TRIGGER actions_stay BEFORE UPDATE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER actions_are_kept BEFORE DELETE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_stay BEFORE UPDATE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_are_kept BEFORE DELETE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
