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
    compaction TEXT,
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
    origin BLOB,
    creator BLOB,
    UNIQUE (agent_id, key)
);

CREATE INDEX sessions_newest ON sessions (agent_id, id);

CREATE INDEX sessions_newest_of_tenant ON sessions (tenant_id, id);

CREATE INDEX sessions_running ON sessions (tenant_id, id, running_turn) WHERE running_turn IS NOT NULL;

CREATE TABLE session_terms (
    session_id INTEGER NOT NULL,
    term INTEGER NOT NULL,
    tenant_id INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    PRIMARY KEY (session_id, term)
) WITHOUT ROWID;

CREATE INDEX session_terms_of_agent ON session_terms (agent_id, term, session_id);

CREATE INDEX session_terms_of_tenant ON session_terms (tenant_id, term, session_id);

CREATE INDEX sessions_idle ON sessions (updated_at + tti_minutes * 60000000)
WHERE tti_minutes > 0 AND (running_turn IS NULL OR stop_reason = 'requires_action');

-- Sessions that are being filled by a fork or an import: their rows come with the last commit. One that nobody goes on
-- with is purged.
CREATE TABLE copies (
    session_id INTEGER PRIMARY KEY,
    touched_at INTEGER NOT NULL
);

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
    interrupted_at INTEGER,
    outstanding TEXT,
    takes INTEGER NOT NULL DEFAULT 0,
    lease_until INTEGER NOT NULL DEFAULT 0,
    parent_turn_id TEXT,
    parent_event_id TEXT
);

CREATE INDEX turns_of_session ON turns (session_id, id);

CREATE INDEX turns_of_calls ON turns (parent_turn_id, parent_event_id) WHERE parent_turn_id IS NOT NULL;

-- `hidden`: 0 visible, 1 covered by a summary, 2 hidden by a caller, 3 deleted. 0 and 1 take no byte of a row.
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

CREATE INDEX events_summaries ON events (session_id, sequence) WHERE type = 'compaction';
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
    taken_sequence INTEGER,
    upload BLOB
);

CREATE INDEX inputs_of_session ON inputs (session_id, event_id);

CREATE INDEX inputs_waiting ON inputs (session_id, id) WHERE waits;

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

-- Of an agent: session 0. Of a tool server: session 0, and its id, negative, in the place of an agent's.
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

CREATE TABLE artifacts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    artifact_id TEXT NOT NULL,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    ttl_days INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    UNIQUE (session_id, artifact_id)
);

CREATE INDEX artifacts_newest ON artifacts (session_id, id);

CREATE INDEX artifacts_of_file ON artifacts (sha256, tenant_id);

CREATE INDEX artifacts_expiring ON artifacts (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE tool_servers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    document BLOB NOT NULL,
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
