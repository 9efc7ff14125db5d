-- Secrets of agents (session 0) and of sessions, encrypted, and the key that new ones are encrypted with.

CREATE TABLE secrets (
    session_id INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (session_id, agent_id, name)
) WITHOUT ROWID;

CREATE TABLE secrets_key (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    key_id TEXT NOT NULL
);
