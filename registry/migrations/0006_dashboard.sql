-- Sessions can be told apart by the operator who lists them. What browser says is
-- its own claim. Of sessions that are older than this schema nothing is known.
ALTER TABLE sessions ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN browser TEXT NOT NULL DEFAULT '';

-- The rule that held an action; empty for host keys.
ALTER TABLE approvals ADD COLUMN rule TEXT NOT NULL DEFAULT '';

-- What an operator allowed beyond the one action that asked: what the same rule
-- holds of the same registration at the same endpoint, until then and so often.
CREATE TABLE grants (
    id           TEXT PRIMARY KEY,
    approval     TEXT NOT NULL, -- the one that was answered so
    registration TEXT NOT NULL,
    endpoint     TEXT NOT NULL,
    rule         TEXT NOT NULL,
    operator     TEXT NOT NULL,
    reason       TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    uses         INTEGER NOT NULL, -- how often; 0: any number
    used         INTEGER NOT NULL,
    ended_at     INTEGER NOT NULL  -- an operator took it back; 0: nobody did
) STRICT, WITHOUT ROWID;

-- When each registration last used a credential. It outlives the action log's
-- rows, and may be some seconds behind them.
CREATE TABLE credential_uses (
    credential   TEXT NOT NULL,
    registration TEXT NOT NULL,
    time         INTEGER NOT NULL,
    PRIMARY KEY (credential, registration)
) STRICT, WITHOUT ROWID;
