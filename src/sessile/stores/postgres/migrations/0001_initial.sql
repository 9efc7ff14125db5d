CREATE TABLE writers (
    id text PRIMARY KEY,
    mark bigint NOT NULL,
    used_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);

CREATE TABLE tenants (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL UNIQUE,
    name text NOT NULL,
    created_at bigint NOT NULL
);

CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    key_id text NOT NULL UNIQUE,
    name text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    roles bytea NOT NULL,
    agent_roles bytea NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint
);

CREATE TABLE agents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    key text NOT NULL,
    enabled boolean NOT NULL,
    version bigint NOT NULL,
    document bytea NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    compaction text,
    UNIQUE (tenant_id, key)
);

CREATE INDEX agents_newest ON agents (tenant_id, id);

CREATE INDEX agents_newest_enabled ON agents (tenant_id, enabled, id);

CREATE TABLE sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    agent_id bigint NOT NULL,
    key text NOT NULL,
    name text NOT NULL,
    description text,
    metadata bytea NOT NULL,
    enabled boolean NOT NULL,
    tti_minutes bigint NOT NULL,
    version bigint NOT NULL,
    running_turn text,
    stop_reason text,
    last_sequence bigint NOT NULL,
    last_event_id text,
    usage bytea NOT NULL,
    context_usage bytea,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    origin bytea,
    creator bytea,
    UNIQUE (agent_id, key)
) WITH (fillfactor = 70);

CREATE INDEX sessions_newest ON sessions (agent_id, id);

CREATE INDEX sessions_newest_of_tenant ON sessions (tenant_id, id);

CREATE TABLE session_terms (
    session_id bigint NOT NULL,
    term bigint NOT NULL,
    tenant_id bigint NOT NULL,
    agent_id bigint NOT NULL,
    PRIMARY KEY (session_id, term)
);

CREATE INDEX session_terms_of_agent ON session_terms (agent_id, term, session_id);

CREATE INDEX session_terms_of_tenant ON session_terms (tenant_id, term, session_id);

-- Sessions with a time to idle: since when it was counted last, and when to look whether it is over, which is never too
-- late. An index on the times of use themselves would make every change of a session dearer.
CREATE TABLE idle (
    session_id bigint PRIMARY KEY,
    since bigint NOT NULL,
    look_at bigint NOT NULL
);

CREATE INDEX idle_next ON idle (look_at);

CREATE INDEX idle_since ON idle (since);

-- Sessions that are being filled by a fork or an import: their rows come with the last commit. One that nobody goes on
-- with is purged.
CREATE TABLE copies (
    session_id bigint PRIMARY KEY,
    touched_at bigint NOT NULL
);

CREATE TABLE turns (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    session_id bigint NOT NULL,
    turn_id text NOT NULL UNIQUE,
    input_sequence bigint NOT NULL,
    input_event_id text NOT NULL,
    fence bigint NOT NULL,
    running boolean NOT NULL,
    stop_reason text,
    error bytea,
    usage bytea NOT NULL,
    created_at bigint NOT NULL,
    ended_at bigint,
    interrupted_at bigint,
    outstanding text,
    takes bigint NOT NULL DEFAULT 0,
    lease_until bigint NOT NULL,
    parent_turn_id text,
    parent_event_id text
) WITH (fillfactor = 70);

CREATE INDEX turns_of_session ON turns (session_id, id);

CREATE INDEX turns_of_calls ON turns (parent_turn_id, parent_event_id) WHERE parent_turn_id IS NOT NULL;

CREATE INDEX turns_running ON turns (tenant_id, session_id) WHERE running;

-- `hidden`: 0 visible, 1 covered by a summary, 2 hidden by a caller, 3 deleted.
CREATE TABLE events (
    tenant_id bigint NOT NULL,
    session_id bigint NOT NULL,
    sequence bigint NOT NULL,
    id text NOT NULL,
    turn_id text NOT NULL,
    type text NOT NULL,
    hidden smallint NOT NULL,
    created_at bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (session_id, sequence)
);

CREATE INDEX events_summaries ON events (session_id, sequence) WHERE type = 'compaction';

CREATE TABLE inputs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    session_id bigint NOT NULL,
    event_id text NOT NULL,
    turn_id text NOT NULL,
    behavior text NOT NULL,
    body bytea NOT NULL,
    created_at bigint NOT NULL,
    waits boolean NOT NULL,
    taken_sequence bigint,
    upload bytea
);

CREATE INDEX inputs_of_session ON inputs (session_id, event_id);

CREATE INDEX inputs_waiting ON inputs (session_id, id) WHERE waits;

CREATE TABLE purges (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id bigint,
    session_id bigint
);

CREATE TABLE idempotency (
    tenant_id bigint NOT NULL,
    scope text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    made bigint NOT NULL,
    created_at bigint NOT NULL,
    PRIMARY KEY (tenant_id, scope, key)
);

CREATE INDEX idempotency_oldest ON idempotency (created_at);

-- Of an agent: session 0. Of a tool server: session 0, and its id, negative, in the place of an agent's.
CREATE TABLE secrets (
    session_id bigint NOT NULL,
    agent_id bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    key_id text NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (session_id, agent_id, name)
);

CREATE TABLE secrets_key (
    id integer PRIMARY KEY CHECK (id = 1),
    key_id text NOT NULL
);

CREATE TABLE artifacts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    session_id bigint NOT NULL,
    artifact_id text NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    ttl_days bigint,
    created_at bigint NOT NULL,
    expires_at bigint,
    UNIQUE (session_id, artifact_id)
);

CREATE INDEX artifacts_newest ON artifacts (session_id, id);

CREATE INDEX artifacts_of_file ON artifacts (sha256, tenant_id);

CREATE INDEX artifacts_expiring ON artifacts (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE tool_servers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    key text NOT NULL,
    enabled boolean NOT NULL,
    document bytea NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tool_servers_newest ON tool_servers (tenant_id, id);

CREATE TABLE tools (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id bigint NOT NULL,
    server_id bigint NOT NULL,
    key text NOT NULL,
    name text NOT NULL,
    enabled boolean NOT NULL,
    document bytea NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tools_newest ON tools (tenant_id, id);

CREATE UNIQUE INDEX tools_of_server ON tools (server_id, name);
