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
INSERT INTO sealed_settings VALUES ('master_key_check', X'E461FE6AEBB94075D58F30A4B30CEEDEA2930EEECFFC5AC8D850A91BEFF1A0721EF4AF97111C272D7B7514C9ABEC9339DEE8');
INSERT INTO sealed_settings VALUES ('root_password', X'5ADEB5EE6666836C53EF31F822C986299CAF8293F296AB49F03289F132A58B12BDFDFE80C2F8ADCD240EAB835C6B70D8F7BF90');
INSERT INTO sealed_settings VALUES ('wireguard_private_key', X'D8FDE98DDD30DFB415FAE4CE4B0A40E7312BFF129B32A821A4996C28B1E93A312CF605DFEC81B4739E3F2D3D6215FCE0586E85430484475DD6A865C4C950D1886D0D056D775B00D0');
INSERT INTO registrations VALUES (1, 'r_253xfbem6gjztu6olqwvtr7pom', 'builder', 'approved', 'PRBW-XZHZ', X'0101000000000000000000000000000000000000000000000000000000000000', X'38FCCE99A505A77C90D04393C877223339940E82240EA4BB8330C03DCCB41367F4AE9555E828815DE84F0E93BF22FD8D37CD287F747C90CEF5ED', X'9B68081F200D161C6A4E40A1C7FEB1CE4091EF38447D6F20D77B82674EDA8D46A6E93460F33705548436169B8B9503373AEA6FFFD902D55173E7D3FEEE6A7CB1', 1, '192.0.2.1', '192.0.2.1', '2001:db8::1', 1, 1, 1, '["ci","docs"]', 'wireguard', '192.0.2.1:40000', 1772366400000000, 1772366400000000, 0, 1772366400000000, 0, '', 0);
INSERT INTO registrations VALUES (2, 'r_fygjwhdn7j66zvwa45zewt76ye', 'tester', 'blocked', 'HMZT-TTDR', X'0201000000000000000000000000000000000000000000000000000000000000', X'5EBD55033FBC752FC5CCC485184A6D79E727B67FAF766B0E1D778CBCB180A70E4E8827E3A4D977B5FB1B338A1BE60C846BF352470AD6200A79', X'0E3F4525B691C6C5BA6C428CBB249C72BF454F5792343E89D1294C754E20857468DE40B92F6F37470EFB5BB9E99E13FBDC1BC91197D8B9E9452B60EEEB00E1', 2, '192.0.2.2', '192.0.2.2', '', 0, 0, 1, '["ci"]', 'wireguard', '', 0, 1772366400000000, 0, 1772366400000000, 1772366400000000, 'pin violated', 0);
INSERT INTO registrations VALUES (3, 'r_imomxgw3fnkiuozfc6m4ods32q', 'docs', 'revoked', 'LZFD-PDLX', X'0301000000000000000000000000000000000000000000000000000000000000', NULL, NULL, 3, '192.0.2.3', '192.0.2.3', '', 0, 0, 0, '[]', 'wireguard', '', 0, 1772366400000000, 0, 0, 0, '', 1772366400000000);
INSERT INTO virtual_addresses VALUES ('r_253xfbem6gjztu6olqwvtr7pom', 1, 'api.github.com', 1772366400000000);
INSERT INTO credentials VALUES ('bearer.github', 2);
INSERT INTO credential_slots VALUES ('bearer.github', 'secret', X'FD53EBBA347632FCFA38D834FF7F66B4FF1EB9A490B9FA2ACDD5DA27988DBAEB0C35E80FB4EE9E4E8C52C79C18CBAA11B0E0FB', 1772366400000000);
INSERT INTO named_secrets VALUES ('TS_AUTHKEY', X'99E100ABD61C18A280C88473F87418AE88833AB0870F766A0041A481C0F976CB2E03606E528650BCB8FAA454AB', 1772366400000000);
INSERT INTO sessions VALUES (1, X'0100000000000000000000000000000000000000000000000000000000000000', 1772370000000000);
INSERT INTO actions VALUES (1, 1772366400000000, 'r_253xfbem6gjztu6olqwvtr7pom', 'ci', 'https.github', 'bearer.github', 'https', 'GET api.github.com/user', 'allow', '', '');
INSERT INTO action_results VALUES (1, '200', 7, 42, 1000000000);

CREATE INDEX actions_by_registration ON actions (registration);
CREATE INDEX actions_not_allowed ON actions (verdict) WHERE verdict <> 'allow';
CREATE TRIGGER actions_stay BEFORE UPDATE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER actions_are_kept BEFORE DELETE ON actions
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_stay BEFORE UPDATE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_results_are_kept BEFORE DELETE ON action_results
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
