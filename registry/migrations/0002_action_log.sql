-- The result of an action that ended before its row was written stands in the
-- row itself: all four are NULL, or none is. Later ones stand in action_results.
ALTER TABLE actions ADD COLUMN status TEXT;
ALTER TABLE actions ADD COLUMN bytes_in INTEGER;
ALTER TABLE actions ADD COLUMN bytes_out INTEGER;
ALTER TABLE actions ADD COLUMN duration INTEGER; -- nanoseconds

-- Which spans of 1024 IDs hold rows of a registration or endpoint. An index on
-- the rows would cost a page in every transaction for each registration that
-- acts; this costs one row in a thousand.
CREATE TABLE action_spans (
    field TEXT NOT NULL CHECK (field IN ('registration', 'endpoint')),
    value TEXT NOT NULL,
    span  INTEGER NOT NULL, -- id >> 10
    PRIMARY KEY (field, value, span)
) STRICT, WITHOUT ROWID;

CREATE INDEX action_spans_by_span ON action_spans (span);

INSERT INTO action_spans SELECT DISTINCT 'registration', registration, id >> 10 FROM actions WHERE registration <> '';
INSERT INTO action_spans SELECT DISTINCT 'endpoint', endpoint, id >> 10 FROM actions WHERE endpoint <> '';
DROP INDEX actions_by_registration;
DROP INDEX actions_by_endpoint;

-- Where the log begins, and what was removed before that. Only rows that this
-- says are gone can be deleted, and it never takes anything back.
CREATE TABLE action_log_start (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    first      INTEGER NOT NULL, -- no row has a smaller ID
    removed    INTEGER NOT NULL, -- how many rows there were before it
    newest     INTEGER NOT NULL, -- the newest time among them
    removed_at INTEGER NOT NULL, -- when rows were last removed
    reason     TEXT NOT NULL CHECK (reason IN ('', 'age', 'size')) -- and why
) STRICT;

INSERT INTO action_log_start VALUES (1, 1, 0, 0, 0, '');

CREATE TRIGGER action_log_start_only_rises BEFORE UPDATE ON action_log_start
    WHEN new.first < old.first OR new.removed < old.removed OR new.newest < old.newest
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
CREATE TRIGGER action_log_start_is_kept BEFORE DELETE ON action_log_start
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;

DROP TRIGGER actions_are_kept;
CREATE TRIGGER actions_are_kept BEFORE DELETE ON actions
    WHEN old.id >= (SELECT first FROM action_log_start)
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
DROP TRIGGER action_results_are_kept;
CREATE TRIGGER action_results_are_kept BEFORE DELETE ON action_results
    WHEN old.action >= (SELECT first FROM action_log_start)
    BEGIN SELECT RAISE(ABORT, 'the action log is append-only'); END;
