-- The whole schema of the embedded store. Migrations lead here; a test compares the two.
-- Times are microseconds since the epoch. Rows join on integers that are never used twice. There are no foreign
-- keys: what is deleted becomes unreachable at once, and `purges` lists what is still to be removed in slices.

CREATE TABLE schema_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at INTEGER NOT NULL
);

CREATE TABLE tenants (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    key_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    roles TEXT NOT NULL,
    agent_roles TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
);

CREATE TABLE agents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    version INTEGER NOT NULL,
    document BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX agents_newest ON agents (tenant_id, id);

CREATE INDEX agents_newest_enabled ON agents (tenant_id, enabled, id);

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    metadata BLOB NOT NULL,
    enabled INTEGER NOT NULL,
    tti_minutes INTEGER NOT NULL,
    version INTEGER NOT NULL,
    running_turn TEXT,
    stop_reason TEXT,
    last_sequence INTEGER NOT NULL,
    last_event_id TEXT,
    usage BLOB NOT NULL,
    context_usage BLOB,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (agent_id, key)
);

CREATE INDEX sessions_newest ON sessions (agent_id, id);

CREATE INDEX sessions_running ON sessions (running_turn) WHERE running_turn IS NOT NULL;

CREATE TABLE turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    turn_id TEXT NOT NULL UNIQUE,
    input_sequence INTEGER NOT NULL,
    input_event_id TEXT NOT NULL,
    fence INTEGER NOT NULL,
    running INTEGER NOT NULL,
    stop_reason TEXT,
    error BLOB,
    usage BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at INTEGER,
    interrupted_at INTEGER
);

CREATE INDEX turns_of_session ON turns (session_id, id);

CREATE TABLE events (
    tenant_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    type TEXT NOT NULL,
    hidden INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE UNIQUE INDEX events_log ON events (session_id, sequence);

CREATE TABLE purges (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id INTEGER,
    session_id INTEGER
);

CREATE TABLE idempotency (
    tenant_id INTEGER NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    made INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, key)
) WITHOUT ROWID;

CREATE INDEX idempotency_oldest ON idempotency (created_at);

CREATE TABLE tool_servers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    document BLOB NOT NULL,
    secret BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tool_servers_newest ON tool_servers (tenant_id, id);

CREATE TABLE tools (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    server_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    document BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tools_newest ON tools (tenant_id, id);

CREATE UNIQUE INDEX tools_of_server ON tools (server_id, name);
