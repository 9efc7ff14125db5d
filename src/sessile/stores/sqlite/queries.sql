-- name: insert_tenant
-- Add a tenant.
INSERT INTO tenants (key, name, created_at) VALUES (:key, :name, :now) RETURNING id;

-- name: list_tenants
-- All tenants, oldest first.
SELECT id, key, name, created_at FROM tenants ORDER BY id;

-- name: insert_key
-- Add an API key; a digest that is already there is left as it is.
INSERT INTO api_keys (tenant_id, key_id, name, digest, roles, agent_roles, created_at)
VALUES (:tenant_id, :key_id, :name, :digest, :roles, :agent_roles, :now)
ON CONFLICT (digest) DO NOTHING;

-- name: list_keys
-- All keys of a tenant, oldest first.
SELECT key_id, tenant_id, name, roles, agent_roles, created_at, revoked_at
FROM api_keys WHERE tenant_id = :tenant_id ORDER BY id;

-- name: get_key
-- One key of a tenant.
SELECT key_id, tenant_id, name, roles, agent_roles, created_at, revoked_at
FROM api_keys WHERE tenant_id = :tenant_id AND key_id = :key_id;

-- name: revoke_key
-- Revoke a key that is not revoked yet.
UPDATE api_keys SET revoked_at = :now WHERE tenant_id = :tenant_id AND key_id = :key_id AND revoked_at IS NULL;

-- name: find_key
-- The key whose secret has this hash.
SELECT key_id, tenant_id, name, roles, agent_roles, created_at, revoked_at FROM api_keys WHERE digest = :digest;

-- name: insert_agent
-- Add an agent.
INSERT INTO agents (tenant_id, key, enabled, version, document, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, 1, :document, :now, :now) RETURNING id;

-- name: get_agent
-- One agent by its key.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents WHERE tenant_id = :tenant_id AND key = :key;

-- name: get_agent_id
-- The internal id of an agent.
SELECT id FROM agents WHERE tenant_id = :tenant_id AND key = :key;

-- name: list_agents
-- Agents of a tenant before a cursor, newest first.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents WHERE tenant_id = :tenant_id AND id < :cursor ORDER BY id DESC LIMIT :limit;

-- name: list_agents_enabled
-- Agents of a tenant that are, or are not, enabled, before a cursor, newest first.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents WHERE tenant_id = :tenant_id AND enabled = :enabled AND id < :cursor ORDER BY id DESC LIMIT :limit;

-- name: save_agent
-- Replace the document of an agent that still has the expected version.
UPDATE agents SET document = :document, enabled = :enabled, version = version + 1, updated_at = :now
WHERE id = :id AND version = :expected_version;

-- name: delete_agent
-- Remove an agent's row.
DELETE FROM agents WHERE id = :id;

-- name: insert_tool_server
-- Add a tool server.
INSERT INTO tool_servers (tenant_id, key, enabled, document, secret, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, :document, :secret, :now, :now) RETURNING id;

-- name: get_tool_server
-- One tool server by its key.
SELECT id, tenant_id, key, enabled, document, secret, created_at, updated_at
FROM tool_servers WHERE tenant_id = :tenant_id AND key = :key;

-- name: list_tool_servers
-- Tool servers of a tenant before a cursor, newest first.
SELECT id, tenant_id, key, enabled, document, secret, created_at, updated_at
FROM tool_servers WHERE tenant_id = :tenant_id AND id < :cursor AND (:enabled IS NULL OR enabled = :enabled)
ORDER BY id DESC LIMIT :limit;

-- name: save_tool_server
-- Replace what a caller may change.
UPDATE tool_servers SET enabled = :enabled, document = :document, secret = :secret, updated_at = :now WHERE id = :id;

-- name: delete_tool_server
-- Remove a tool server's row.
DELETE FROM tool_servers WHERE id = :id;

-- name: delete_tools_of_server
-- Remove the tools of a tool server.
DELETE FROM tools WHERE server_id = :id;

-- name: keep_tool
-- Add a tool of a tool server, or renew what the server says of it; its key and whether it is enabled stay.
INSERT INTO tools (tenant_id, server_id, key, name, enabled, document, created_at, updated_at)
VALUES (:tenant_id, :server_id, :key, :name, 1, :document, :now, :now)
ON CONFLICT (server_id, name) DO UPDATE SET document = :document, updated_at = :now WHERE document <> :document;

-- name: forget_tools
-- Remove the tools of a tool server whose names are not in a JSON list.
DELETE FROM tools WHERE server_id = :server_id AND name NOT IN (SELECT value FROM json_each(:names));

-- name: get_tool
-- One tool by its key.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key
FROM tools t JOIN tool_servers s ON s.id = t.server_id WHERE t.tenant_id = :tenant_id AND t.key = :key;

-- name: list_tools
-- Tools of a tenant, or of one of its tool servers, before a cursor, newest first.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key
FROM tools t JOIN tool_servers s ON s.id = t.server_id
WHERE t.tenant_id = :tenant_id AND t.id < :cursor AND (:enabled IS NULL OR t.enabled = :enabled)
    AND (:server_key IS NULL OR s.key = :server_key)
ORDER BY t.id DESC LIMIT :limit;

-- name: enable_tool
-- Whether a tool may be used.
UPDATE tools SET enabled = :enabled, updated_at = :now WHERE tenant_id = :tenant_id AND key = :key;

-- name: delete_tool
-- Remove a tool's row.
DELETE FROM tools WHERE tenant_id = :tenant_id AND key = :key;

-- name: usable_tools
-- The tools in a JSON list of keys that are enabled, with their tool servers that are.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key,
    s.id, s.tenant_id, s.key, s.enabled, s.document, s.secret, s.created_at, s.updated_at
FROM tools t JOIN tool_servers s ON s.id = t.server_id
WHERE t.tenant_id = :tenant_id AND t.key IN (SELECT value FROM json_each(:keys)) AND t.enabled AND s.enabled;

-- name: insert_session
-- Add a session to an agent; no row comes back when the agent is not there.
INSERT INTO sessions (tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    last_sequence, usage, created_at, updated_at)
SELECT :tenant_id, id, :key, :name, :description, :metadata, :enabled, :tti_minutes, 1, 0, X'7B7D', :now, :now
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key
RETURNING id, agent_id;

-- name: get_session
-- One session by the keys of its agent and its own.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: locate_session
-- The internal id of a session, for reading its log.
SELECT s.id FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: heads
-- The newest sequences of sessions, given as a JSON list of their internal ids.
SELECT s.id, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.id IN (SELECT value FROM json_each(:ids));

-- name: list_sessions
-- Sessions of an agent before a cursor, newest first.
SELECT s.id, s.tenant_id, s.agent_id, :agent_key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at
FROM sessions s WHERE s.agent_id = :agent_id AND s.id < :cursor ORDER BY s.id DESC LIMIT :limit;

-- name: update_session
-- Replace the fields a caller may change.
UPDATE sessions SET name = :name, description = :description, metadata = :metadata, enabled = :enabled,
    tti_minutes = :tti_minutes, version = version + 1, updated_at = :now
WHERE id = :id;

-- name: delete_session
-- Remove a session's row.
DELETE FROM sessions WHERE id = :id;

-- name: session_for_input
-- A session and its agent, as an input needs them.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: unfinished_turns
-- Sessions with a running turn, their agents, and the turn's row.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at,
    t.id, t.turn_id, t.fence, t.usage, t.interrupted_at
FROM sessions s JOIN agents a ON a.id = s.agent_id JOIN turns t ON t.turn_id = s.running_turn
WHERE s.running_turn IS NOT NULL ORDER BY t.id;

-- name: insert_turn
-- Add a running turn.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at)
VALUES (?, ?, ?, ?, ?, 1, 1, X'7B7D', ?);

-- name: interrupt_turn
-- Remember that a running turn shall stop, and since when.
UPDATE turns SET interrupted_at = :now WHERE turn_id = :turn_id AND running = 1 AND interrupted_at IS NULL;

-- name: raise_fence
-- Give a running turn a new fencing token.
UPDATE turns SET fence = fence + 1 WHERE id = :id;

-- name: insert_event
-- Append one event to a log.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?);

-- name: start_turn
-- A session takes an input: its head moves and its turn runs.
UPDATE sessions SET running_turn = ?, stop_reason = NULL, last_sequence = ?, last_event_id = ?, updated_at = ?
WHERE id = ?;

-- name: fenced_turn
-- The turn that a fence names, and the head of its session's log.
SELECT t.turn_id, t.tenant_id, s.key, s.last_sequence, s.last_event_id
FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.id = ? AND t.session_id = ? AND t.fence = ? AND t.running = 1;

-- name: advance_session
-- The head of a session moves while its turn runs.
UPDATE sessions SET last_sequence = ?, last_event_id = ?, usage = ?, context_usage = coalesce(?, context_usage),
    updated_at = ?
WHERE id = ?;

-- name: advance_turn
-- Store what a running turn has used so far.
UPDATE turns SET usage = ? WHERE id = ?;

-- name: stop_session
-- The head of a session moves for the last time in its turn.
UPDATE sessions SET running_turn = NULL, stop_reason = ?, last_sequence = ?, last_event_id = ?, usage = ?,
    context_usage = coalesce(?, context_usage), updated_at = ?
WHERE id = ?;

-- name: end_turn
-- A turn ends.
UPDATE turns SET running = 0, stop_reason = ?, error = ?, usage = ?, ended_at = ? WHERE id = ?;

-- name: get_turn
-- One turn of a session.
SELECT id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error, usage, created_at, ended_at
FROM turns WHERE turn_id = :turn_id AND session_id = :session_id;

-- name: get_event
-- One event by its place in the log.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence = :sequence;

-- name: session_key
-- The key and the head of a session, by its internal id.
SELECT s.key, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: list_events_asc
-- Events between two places of a log, oldest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated'))
    AND (:include_hidden OR NOT hidden)
    AND (:types IS NULL OR instr(:types, ',' || type || ','))
ORDER BY sequence LIMIT :limit;

-- name: list_events_desc
-- Events between two places of a log, newest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated'))
    AND (:include_hidden OR NOT hidden)
    AND (:types IS NULL OR instr(:types, ',' || type || ','))
ORDER BY sequence DESC LIMIT :limit;

-- name: purge_agent_later
-- Remember that an agent's sessions are to be removed.
INSERT INTO purges (agent_id) VALUES (:agent_id);

-- name: purge_session_later
-- Remember that a session's events and turns are to be removed.
INSERT INTO purges (session_id) VALUES (:session_id);

-- name: find_idempotent
-- What an idempotency key has made, and the fingerprint it came with, unless its time is over.
SELECT made, fingerprint FROM idempotency
WHERE tenant_id = :tenant_id AND scope = :scope AND key = :key AND created_at > :expired;

-- name: keep_idempotent
-- Remember what an idempotency key has made, in place of what it made before its time was over.
INSERT OR REPLACE INTO idempotency (tenant_id, scope, key, fingerprint, made, created_at)
VALUES (:tenant_id, :scope, :key, :fingerprint, :made, :now);

-- name: purge_idempotent
-- Remove a slice of the idempotency keys whose time is over.
DELETE FROM idempotency WHERE (tenant_id, scope, key) IN (
    SELECT tenant_id, scope, key FROM idempotency WHERE created_at <= :expired ORDER BY created_at LIMIT :slice);

-- name: made_agent
-- The agent that an idempotency key has made.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at FROM agents WHERE id = :made;

-- name: made_session
-- The session that an idempotency key has made.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :made;

-- name: made_turn
-- The turn that an idempotency key has made, and its input.
SELECT t.turn_id, t.running, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden, e.body
FROM turns t JOIN events e ON e.session_id = t.session_id AND e.sequence = t.input_sequence WHERE t.id = :made;

-- name: next_purge
-- What is to be removed next.
SELECT id, agent_id, session_id FROM purges ORDER BY id LIMIT 1;

-- name: purge_sessions_later
-- Remember some sessions of an agent.
INSERT INTO purges (session_id) SELECT id FROM sessions WHERE agent_id = :agent_id ORDER BY id LIMIT :slice;

-- name: purge_sessions
-- Remove the same sessions' rows.
DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE agent_id = :agent_id ORDER BY id LIMIT :slice);

-- name: purge_events
-- Remove a slice of a session's events.
DELETE FROM events WHERE rowid IN (SELECT rowid FROM events WHERE session_id = :session_id LIMIT :slice);

-- name: purge_turns
-- Remove a slice of a session's turns.
DELETE FROM turns WHERE id IN (SELECT id FROM turns WHERE session_id = :session_id LIMIT :slice);

-- name: end_purge
-- A removal is complete.
DELETE FROM purges WHERE id = :id;

-- name: touch
-- Prove that the store can commit.
UPDATE schema_migrations SET version = version WHERE version = 1;
