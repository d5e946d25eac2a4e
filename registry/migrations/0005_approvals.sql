-- What waited for an operator, and what became of it. Who waits is in memory:
-- what is pending in a database that is being opened waits for nobody.
CREATE TABLE approvals (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    registration TEXT NOT NULL,
    endpoint     TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('host_key', 'action')),
    summary      TEXT NOT NULL,
    detail       TEXT NOT NULL CHECK (json_valid(detail)), -- a JSON object
    state        TEXT NOT NULL CHECK (state IN ('pending', 'allowed', 'denied', 'expired', 'withdrawn')),
    reason       TEXT NOT NULL,
    operator     TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    decided_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;

CREATE INDEX approvals_by_state ON approvals (state, seq);

-- Host keys that an operator accepted, one for each host and port of an endpoint.
CREATE TABLE host_keys (
    endpoint    TEXT NOT NULL,
    host        TEXT NOT NULL,
    port        INTEGER NOT NULL,
    key         BLOB NOT NULL,
    approval    TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (endpoint, host, port)
) STRICT, WITHOUT ROWID;
