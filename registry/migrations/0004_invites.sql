-- An id is a hash of what only the token has. An address is within the source if
-- its 17 bytes (family, then the address, padded) are between the two, inclusive;
-- source is the same as text, empty for anywhere.
CREATE TABLE invites (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT NOT NULL UNIQUE,
    profiles     TEXT NOT NULL, -- JSON array of names
    source       TEXT NOT NULL,
    source_first BLOB NOT NULL CHECK (length(source_first) = 17),
    source_last  BLOB NOT NULL CHECK (length(source_last) = 17),
    uses         INTEGER NOT NULL CHECK (uses > 0),
    used         INTEGER NOT NULL CHECK (used BETWEEN 0 AND uses),
    made_by      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    voided_at    INTEGER NOT NULL
) STRICT;

-- The invite a registration was made with, and the profiles that the invite
-- approves it with, until it is approved.
ALTER TABLE registrations ADD COLUMN invite TEXT NOT NULL DEFAULT '';
ALTER TABLE registrations ADD COLUMN invited TEXT NOT NULL DEFAULT '[]';
