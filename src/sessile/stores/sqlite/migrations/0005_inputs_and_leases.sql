CREATE TABLE inputs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    behavior TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    taken_sequence INTEGER
);

CREATE INDEX inputs_of_session ON inputs (session_id, event_id);

CREATE INDEX inputs_waiting ON inputs (session_id, id) WHERE waits;

ALTER TABLE turns ADD COLUMN lease_until INTEGER NOT NULL DEFAULT 0;
