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
INSERT INTO agents (tenant_id, key, enabled, version, document, compaction, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, 1, :document, json_extract(CAST(:document AS TEXT), '$.compaction'), :now, :now)
RETURNING id;

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

-- name: agents_edge
-- The last of a number of agents before a cursor, newest first.
SELECT id FROM agents WHERE tenant_id = :tenant_id AND id < :cursor ORDER BY id DESC LIMIT 1 OFFSET :examined;

-- name: match_agents
-- Agents between two places, newest first, whose name or description has a pattern.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents
WHERE tenant_id = :tenant_id AND id < :cursor AND id >= :edge AND (:enabled IS NULL OR enabled = :enabled)
    AND pattern_matches(:pattern, json_extract(CAST(document AS TEXT), '$.name'),
        json_extract(CAST(document AS TEXT), '$.description'))
ORDER BY id DESC LIMIT :limit;

-- name: save_agent
-- Replace the document of an agent that still has the expected version.
UPDATE agents SET document = :document, compaction = json_extract(CAST(:document AS TEXT), '$.compaction'),
    enabled = :enabled, version = version + 1, updated_at = :now
WHERE id = :id AND version = :expected_version;

-- name: delete_agent
-- Remove an agent's row.
DELETE FROM agents WHERE id = :id;

-- name: insert_tool_server
-- Add a tool server.
INSERT INTO tool_servers (tenant_id, key, enabled, document, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, :document, :now, :now) RETURNING id;

-- name: get_tool_server
-- One tool server by its key.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT json_group_array(x.name) FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE tenant_id = :tenant_id AND key = :key;

-- name: list_tool_servers
-- Tool servers of a tenant before a cursor, newest first.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT json_group_array(x.name) FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE tenant_id = :tenant_id AND id < :cursor AND (:enabled IS NULL OR enabled = :enabled)
ORDER BY id DESC LIMIT :limit;

-- name: save_tool_server
-- Replace what a caller may change.
UPDATE tool_servers SET enabled = :enabled, document = :document, updated_at = :now WHERE id = :id;

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
    s.id, s.tenant_id, s.key, s.enabled, s.document, s.created_at, s.updated_at,
    (SELECT json_group_array(x.name) FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -s.id)
FROM tools t JOIN tool_servers s ON s.id = t.server_id
WHERE t.tenant_id = :tenant_id AND t.key IN (SELECT value FROM json_each(:keys)) AND t.enabled AND s.enabled;

-- name: insert_session
-- Add a session to an agent; no row comes back when the agent is not there.
INSERT INTO sessions (tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    last_sequence, usage, created_at, updated_at)
SELECT :tenant_id, id, :key, :name, :description, :metadata, :enabled, :tti_minutes, 1, 0, X'7B7D', :now, :now
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key
RETURNING id, agent_id, (SELECT compaction FROM agents WHERE agents.id = agent_id);

-- name: get_session
-- One session by the keys of its agent and its own.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
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
    s.created_at, s.updated_at, s.origin, (SELECT compaction FROM agents WHERE id = :agent_id), s.creator
FROM sessions s WHERE s.agent_id = :agent_id AND s.id < :cursor ORDER BY s.id DESC LIMIT :limit;

-- name: candidates_of_agent
-- Ids of an agent's sessions before a cursor, newest first.
SELECT id FROM sessions WHERE agent_id = :scope AND id < :cursor ORDER BY id DESC LIMIT :slice;

-- name: candidates_of_tenant
-- Ids of a tenant's sessions before a cursor, newest first.
SELECT id FROM sessions WHERE tenant_id = :scope AND id < :cursor ORDER BY id DESC LIMIT :slice;

-- name: candidates_of_agent_by_term
-- Ids of an agent's sessions before a cursor that have a term in their metadata, or may have it, newest first.
SELECT session_id FROM session_terms WHERE agent_id = :scope AND term = :term AND session_id < :cursor
UNION ALL
SELECT session_id FROM session_terms WHERE agent_id = :scope AND term = 0 AND session_id < :cursor
ORDER BY session_id DESC LIMIT :slice;

-- name: candidates_of_tenant_by_term
-- Ids of a tenant's sessions before a cursor that have a term in their metadata, or may have it, newest first.
SELECT session_id FROM session_terms WHERE tenant_id = :scope AND term = :term AND session_id < :cursor
UNION ALL
SELECT session_id FROM session_terms WHERE tenant_id = :scope AND term = 0 AND session_id < :cursor
ORDER BY session_id DESC LIMIT :slice;

-- name: candidates_running
-- Ids of a tenant's sessions before a cursor in which a turn runs or is parked, newest first.
SELECT id FROM sessions WHERE tenant_id = :scope AND id < :cursor AND running_turn IS NOT NULL
ORDER BY id DESC LIMIT :slice;

-- name: find_sessions
-- Those of some sessions, given as a JSON list of their ids, that a query takes, newest first. A condition on metadata
-- stands in the place of the last TRUE.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.id IN (SELECT value FROM json_each(:ids))
    AND (:agents IS NULL OR s.agent_id IN (SELECT value FROM json_each(:agents)))
    AND (:status IS NULL OR :status = CASE
        WHEN s.running_turn IS NOT NULL AND s.stop_reason IS NOT 'requires_action' THEN 'running'
        WHEN s.last_sequence > 0 THEN 'stopped' ELSE 'unstarted' END)
    AND s.created_at > :created_after AND s.created_at < :created_before
    AND s.updated_at > :updated_after AND s.updated_at < :updated_before
    AND (:pattern IS NULL OR pattern_matches(:pattern, s.name, s.description))
    AND TRUE
ORDER BY s.id DESC LIMIT :limit;

-- name: sizes_of_metadata
-- How many bytes the metadata of some sessions have, given as a JSON list of their ids.
SELECT id, length(metadata) FROM sessions WHERE id IN (SELECT value FROM json_each(:ids));

-- name: insert_term
-- Remember a term of a session's metadata.
INSERT INTO session_terms (session_id, term, tenant_id, agent_id) VALUES (?, ?, ?, ?);

-- name: delete_terms
-- Forget the terms of a session's metadata.
DELETE FROM session_terms WHERE session_id = :session_id;

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
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: session_to_run
-- A session and its agent, as its next turn needs them.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: unfinished_turns
-- Sessions with a running turn that is not parked and whose lease has run out by a time, their agents, the turn's row,
-- and whether it came out of the queue and did nothing yet.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at,
    t.id, t.turn_id, t.fence, t.usage, t.interrupted_at, t.takes,
    s.last_sequence = t.input_sequence + 1 AND EXISTS (
        SELECT 1 FROM inputs i WHERE i.session_id = s.id AND i.taken_sequence = t.input_sequence)
FROM sessions s JOIN agents a ON a.id = s.agent_id JOIN turns t ON t.turn_id = s.running_turn
WHERE s.running_turn IS NOT NULL AND t.outstanding IS NULL AND t.lease_until <= :by
ORDER BY t.id LIMIT :limit;

-- name: any_expired_turn
-- Whether the lease of a running turn has run out.
SELECT 1 FROM sessions s JOIN turns t ON t.turn_id = s.running_turn
WHERE s.running_turn IS NOT NULL AND t.outstanding IS NULL AND t.lease_until <= :now LIMIT 1;

-- name: next_expiry
-- When the first lease of a running turn runs out.
SELECT min(t.lease_until) FROM sessions s JOIN turns t ON t.turn_id = s.running_turn
WHERE s.running_turn IS NOT NULL AND t.outstanding IS NULL;

-- name: renew_lease
-- Whoever runs a turn keeps it for longer.
UPDATE turns SET lease_until = ? WHERE id = ? AND session_id = ? AND fence = ? AND running = 1;

-- name: insert_turn
-- Add a running turn.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at,
    lease_until)
VALUES (?, ?, ?, ?, ?, 1, 1, X'7B7D', ?, ?);

-- name: interrupt_turn
-- Remember that a running turn shall stop, and since when.
UPDATE turns SET interrupted_at = :now WHERE turn_id = :turn_id AND running = 1 AND interrupted_at IS NULL;

-- name: take_up
-- Give a running turn a new fencing token and a lease, and count that it was taken up.
UPDATE turns SET fence = fence + 1, takes = takes + 1, lease_until = :lease_until WHERE id = :id;

-- name: hand_over
-- A running turn is left on purpose: anybody may take it up now, and that take does not count.
UPDATE turns SET takes = takes - 1, lease_until = 0 WHERE id = ? AND fence = ? AND running = 1;

-- name: insert_event
-- Append one event to a log.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?);

-- name: start_turn
-- A session takes an input: its head moves and its turn runs.
UPDATE sessions SET running_turn = ?, stop_reason = NULL, last_sequence = ?, last_event_id = ?, updated_at = ?
WHERE id = ?;

-- name: fenced_turn
-- The turn that a fence names, the head of its session's log, and whether inputs wait (1: one to steer the turn).
SELECT t.turn_id, t.tenant_id, s.key, s.last_sequence, s.last_event_id,
    (SELECT max(i.behavior = 'steer') FROM inputs i WHERE i.session_id = t.session_id AND i.waits)
FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.id = ? AND t.session_id = ? AND t.fence = ? AND t.running = 1 AND t.outstanding IS NULL;

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

-- name: insert_input
-- Add an input that waits.
INSERT INTO inputs (tenant_id, session_id, event_id, turn_id, behavior, body, upload, created_at, waits)
VALUES (:tenant_id, :session_id, :event_id, :turn_id, :behavior, :body, :upload, :now, 1);

-- name: use_session
-- Somebody uses a session, which its time to idle counts from.
UPDATE sessions SET updated_at = :now WHERE id = :session_id;

-- name: count_waiting
-- How many inputs of a session wait.
SELECT count(*) FROM inputs WHERE session_id = :session_id AND waits;

-- name: list_waiting
-- The inputs of a session that wait, in the order of acceptance.
SELECT id, event_id, turn_id, behavior, body, upload, created_at FROM inputs
WHERE session_id = :session_id AND waits ORDER BY id LIMIT :limit;

-- name: list_steering
-- The inputs of a session that wait to join the turn that runs, in the order of acceptance.
SELECT id, event_id, turn_id, behavior, body, upload, created_at FROM inputs
WHERE session_id = :session_id AND waits AND behavior = 'steer' ORDER BY id;

-- name: follow_up
-- Inputs that waited to join a turn that has ended become turns of their own.
UPDATE inputs SET behavior = 'follow_up' WHERE session_id = :session_id AND waits AND behavior = 'steer';

-- name: take_input
-- An input stands in the log from now on.
UPDATE inputs SET waits = 0, taken_sequence = :sequence, turn_id = :turn_id, body = X'', upload = NULL
WHERE id = :id;

-- name: withdraw_input
-- An input does not wait any more, and was not taken.
UPDATE inputs SET waits = 0, body = X'', upload = NULL WHERE id = :id;

-- name: find_input
-- An input that waits or has waited, by the id it waits under.
SELECT id, event_id, turn_id, behavior, body, upload, created_at, waits, taken_sequence FROM inputs
WHERE session_id = :session_id AND event_id = :event_id;

-- name: made_input
-- The input that an idempotency key has made.
SELECT id, event_id, turn_id, behavior, body, upload, created_at, waits, taken_sequence FROM inputs WHERE id = :id;

-- name: taken_input
-- An input of the log, and the turn that took it.
SELECT t.turn_id, t.running, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden, e.body
FROM events e JOIN turns t ON t.turn_id = e.turn_id WHERE e.session_id = :session_id AND e.sequence = :sequence;

-- name: move_head
-- The head of a session moves by events that change nothing else.
UPDATE sessions SET last_sequence = :sequence, last_event_id = :event_id, updated_at = :now WHERE id = :session_id;

-- name: get_turn
-- One turn of a session.
SELECT id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error, usage, created_at, ended_at,
    outstanding IS NOT NULL
FROM turns WHERE turn_id = :turn_id AND session_id = :session_id;

-- name: get_event
-- One event by its place in the log.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence = :sequence;

-- name: set_hidden
-- Change who may see an event.
UPDATE events SET hidden = :hidden WHERE session_id = :session_id AND sequence = :sequence;

-- name: erase_event
-- Put what has no text in the place of an event.
UPDATE events SET hidden = :hidden, body = :body WHERE session_id = :session_id AND sequence = :sequence;

-- name: note_in_log
-- The head of a session moves by a record that belongs to no turn.
UPDATE sessions SET last_sequence = :head, updated_at = :now WHERE id = :session_id;

-- name: newest_turn
-- The turn of a session that was started last.
SELECT turn_id FROM turns WHERE session_id = :session_id ORDER BY id DESC LIMIT 1;

-- name: summaries
-- The summaries of a session that neither a caller hid nor anybody deleted, newest first.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND type = 'compaction' AND hidden <= 1 ORDER BY sequence DESC;

-- name: summaries_after
-- The summaries of a session after a place, those too that a caller hid.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND type = 'compaction' AND sequence > :sequence AND hidden <= 2 ORDER BY sequence;

-- name: recent_input
-- The place of an input, counted from the newest turn that has one.
SELECT input_sequence FROM turns WHERE session_id = :session_id AND input_event_id <> ''
ORDER BY id DESC LIMIT 1 OFFSET :skip;

-- name: span_has_input
-- Whether an input that can be summarised stands between two places.
SELECT 1 FROM events WHERE session_id = :session_id AND sequence > :after AND sequence <= :through
    AND hidden <= 1 AND type = 'input_message' LIMIT 1;

-- name: span_counts
-- How many inputs and how many events that can be summarised stand between two places.
SELECT coalesce(sum(type = 'input_message'), 0), count(*) FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence <= :through AND hidden <= 1
    AND type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated');

-- name: changed_since
-- Whether the visibility of an event was changed after a place of the log.
SELECT 1 FROM events WHERE session_id = :session_id AND sequence > :seen
    AND type IN ('event_hidden', 'event_unhidden', 'event_deleted') LIMIT 1;

-- name: cover_events
-- Hide what a summary covers.
UPDATE events SET hidden = 1
WHERE session_id = :session_id AND sequence > :after AND sequence <= :through AND hidden = 0
    AND type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated');

-- name: start_compaction
-- A session takes an order to compact: its head moves and a turn runs.
UPDATE sessions SET running_turn = :turn_id, stop_reason = NULL, last_sequence = :head, updated_at = :now
WHERE id = :session_id;

-- name: session_key
-- The key and the head of a session, by its internal id.
SELECT s.key, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: list_events_asc
-- Events between two places of a log, oldest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated'))
    AND hidden <= :most_hidden
    AND (:types IS NULL OR instr(:types, ',' || type || ','))
ORDER BY sequence LIMIT :limit;

-- name: list_events_desc
-- Events between two places of a log, newest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden', 'event_deleted',
        'session_updated'))
    AND hidden <= :most_hidden
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
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :made;

-- name: made_tool_server
-- The tool server that an idempotency key has made.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT json_group_array(x.name) FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE id = :made;

-- name: made_turn
-- The turn that an idempotency key has made, and its input.
SELECT t.turn_id, t.running AND t.outstanding IS NULL, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden, e.body
FROM turns t JOIN events e ON e.session_id = t.session_id AND e.sequence = t.input_sequence WHERE t.id = :made;

-- name: made_outputs
-- The turn of tool outputs that an idempotency key has made, and the first of them.
SELECT t.turn_id, t.running AND t.outstanding IS NULL, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden,
    e.body
FROM events e JOIN turns t ON t.turn_id = e.turn_id WHERE e.session_id = :session_id AND e.sequence = :made;

-- name: wants_stop
-- Whether a caller wants a turn stopped.
SELECT interrupted_at IS NOT NULL FROM turns WHERE id = :id;

-- name: park_session
-- A session waits for its caller; its turn is still its turn.
UPDATE sessions SET stop_reason = 'requires_action' WHERE id = :session_id;

-- name: park_turn
-- A turn waits for outputs to events, a JSON list of their ids.
UPDATE turns SET outstanding = :outstanding WHERE id = :id;

-- name: waiting_turn
-- The turn of a session that has not ended, and what it waits for, if it is parked.
SELECT id, usage, outstanding FROM turns WHERE turn_id = :turn_id;

-- name: answer_turn
-- Outputs have come: what a turn still waits for, or that it goes on, under a new fencing token and lease.
UPDATE turns SET outstanding = :outstanding, fence = fence + (:outstanding IS NULL), takes = 0, lease_until = :lease_until
WHERE id = :id
RETURNING fence;

-- name: answer_session
-- The head of a session moves by outputs of client tools.
UPDATE sessions SET stop_reason = :stop_reason, last_sequence = :head, last_event_id = :last_event_id, updated_at = :now
WHERE id = :session_id;

-- name: unpark_turn
-- A parked turn is to be ended, under a new fencing token and lease; no row comes back when it is not parked.
UPDATE turns SET outstanding = NULL, fence = fence + 1, lease_until = :lease_until
WHERE turn_id = :turn_id AND outstanding IS NOT NULL
RETURNING id, fence, usage;

-- name: parked_after
-- Whether a turn has parked after a place of the log.
SELECT 1 FROM events
WHERE session_id = :session_id AND sequence > :sequence AND turn_id = :turn_id AND type = 'client_tool_pending' LIMIT 1;

-- name: insert_artifact
-- Add a file to a session.
INSERT INTO artifacts (tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at,
    expires_at)
VALUES (:tenant_id, :session_id, :artifact_id, :name, :content_type, :size, :sha256, :ttl_days, :now, :expires_at);

-- name: get_artifact
-- One file of a session, unless its time is over.
SELECT id, tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at
FROM artifacts WHERE session_id = :session_id AND artifact_id = :artifact_id
    AND (expires_at IS NULL OR expires_at > :now);

-- name: list_artifacts_desc
-- Files of a session before a cursor, newest first.
SELECT id, tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at
FROM artifacts WHERE session_id = :session_id AND id < :cursor AND (expires_at IS NULL OR expires_at > :now)
ORDER BY id DESC LIMIT :limit;

-- name: list_artifacts_asc
-- Files of a session after a cursor, oldest first.
SELECT id, tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at
FROM artifacts WHERE session_id = :session_id AND id > :cursor AND (expires_at IS NULL OR expires_at > :now)
ORDER BY id LIMIT :limit;

-- name: count_artifacts
-- How many files a session has, and their bytes.
SELECT count(*), coalesce(sum(size), 0) FROM artifacts
WHERE session_id = :session_id AND (expires_at IS NULL OR expires_at > :now);

-- name: expired_artifact
-- Whether the time of some file is over.
SELECT 1 FROM artifacts WHERE expires_at <= :now LIMIT 1;

-- name: take_expired_artifacts
-- Remove some files whose time is over, and tell which bytes they named.
DELETE FROM artifacts WHERE id IN (
    SELECT id FROM artifacts WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit)
RETURNING tenant_id, sha256;

-- name: named_files
-- Which of these bytes, given as a JSON list of tenant and hash, some file still names.
SELECT json_extract(wanted.value, '$[0]'), json_extract(wanted.value, '$[1]') FROM json_each(:files) wanted
WHERE EXISTS (SELECT 1 FROM artifacts a WHERE a.sha256 = json_extract(wanted.value, '$[1]')
    AND a.tenant_id = json_extract(wanted.value, '$[0]'));

-- name: expire_artifact
-- The time of one file of a session is over.
UPDATE artifacts SET expires_at = 0 WHERE session_id = :session_id AND artifact_id = :artifact_id;

-- name: expire_artifacts
-- The time of a slice of a session's files is over: the session is gone.
UPDATE artifacts SET expires_at = 0 WHERE id IN (
    SELECT id FROM artifacts WHERE session_id = :session_id AND coalesce(expires_at, 1) > 0 LIMIT :slice);

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

-- name: purge_inputs
-- Remove a slice of a session's inputs that wait or have waited.
DELETE FROM inputs WHERE id IN (SELECT id FROM inputs WHERE session_id = :session_id LIMIT :slice);

-- name: purge_keys_of_inputs
-- Remove a slice of the idempotency keys of a session's inputs.
DELETE FROM idempotency WHERE (tenant_id, scope, key) IN (
    SELECT tenant_id, scope, key FROM idempotency
    WHERE tenant_id IN (SELECT id FROM tenants) AND scope = :scope LIMIT :slice);

-- name: end_purge
-- A removal is complete.
DELETE FROM purges WHERE id = :id;

-- name: touch
-- Prove that the store can commit.
UPDATE schema_migrations SET version = version WHERE version = 1;

-- name: secret_names
-- The names of an owner's secrets.
SELECT name FROM secrets WHERE session_id = :session_id AND agent_id = :agent_id ORDER BY name;

-- name: session_secret_names
-- The names of the secrets of sessions, given as a JSON list of their internal ids.
SELECT session_id, name FROM secrets WHERE session_id IN (SELECT value FROM json_each(:ids)) AND session_id <> 0
ORDER BY session_id, name;

-- name: sealed_secrets
-- The secrets of an agent, then those of a session of it.
SELECT agent_id, session_id, name, key_id, value FROM secrets
WHERE session_id IN (0, :session_id) AND agent_id = :agent_id ORDER BY session_id, name;

-- name: write_secret
-- Set a secret.
INSERT OR REPLACE INTO secrets (session_id, agent_id, name, key_id, value)
VALUES (:session_id, :agent_id, :name, :key_id, :value);

-- name: delete_secret
-- Remove a secret.
DELETE FROM secrets WHERE session_id = :session_id AND agent_id = :agent_id AND name = :name;

-- name: delete_agent_secrets
-- Remove all secrets of an agent's own, or of a tool server's under its id, negative.
DELETE FROM secrets WHERE session_id = 0 AND agent_id = :agent_id;

-- name: delete_session_secrets
-- Remove all secrets of a session.
DELETE FROM secrets WHERE session_id = :session_id AND session_id <> 0;

-- name: secrets_key
-- The key that new secrets are encrypted with.
SELECT key_id FROM secrets_key WHERE id = 1;

-- name: use_secrets_key
-- Let new secrets be encrypted with a key.
INSERT OR REPLACE INTO secrets_key (id, key_id) VALUES (1, :key_id);

-- name: secrets_under_other_keys
-- Some secrets that are not encrypted with a key.
SELECT agent_id, session_id, name, key_id, value FROM secrets WHERE key_id <> :key_id LIMIT :limit;

-- name: replace_sealed
-- Encrypt a secret anew that nobody has changed meanwhile.
UPDATE secrets SET key_id = :key_id, value = :value
WHERE session_id = :session_id AND agent_id = :agent_id AND name = :name AND value = :old;

-- name: next_session_id
-- Take an internal id for a session whose row comes later: nobody else gets it.
UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'sessions' RETURNING seq;

-- name: first_session_id
-- The same in a database that has never had a session.
INSERT INTO sqlite_sequence (name, seq) VALUES ('sessions', 1) RETURNING seq;

-- name: begin_copy
-- Remember that a session is being filled.
INSERT INTO copies (session_id, touched_at) VALUES (:copy_id, :now);

-- name: touch_copy
-- Somebody still fills the session.
UPDATE copies SET touched_at = :now WHERE session_id = :copy_id;

-- name: end_copy
-- A session is filled, or given up.
DELETE FROM copies WHERE session_id = :copy_id;

-- name: purge_stale_copies_later
-- Remember to remove what was copied into sessions that nobody goes on to fill.
INSERT INTO purges (session_id) SELECT session_id FROM copies WHERE touched_at <= :stale;

-- name: end_stale_copies
-- The same sessions are given up.
DELETE FROM copies WHERE touched_at <= :stale;

-- name: sizes_of_events
-- How large the bodies up to a place of a log are.
SELECT sequence, length(body) FROM events
WHERE session_id = :source_id AND sequence <= :cut ORDER BY sequence;

-- name: copy_events
-- Copy a slice of a log, its bodies unread but for those that refer to other events. What a summary hides that is not
-- copied is visible again.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
SELECT tenant_id, :copy_id, sequence, renamed(id, :salt), renamed(turn_id, :salt), type,
    CASE WHEN hidden = 1 AND sequence > :covered THEN 0 ELSE hidden END, created_at,
    CASE WHEN instr(:referring, ',' || type || ',') THEN renamed_within(body, :salt) ELSE body END
FROM events WHERE session_id = :source_id AND sequence > :after AND sequence <= :until ORDER BY sequence;

-- name: copy_turns
-- Copy a slice of the turns of a log.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error,
    usage, created_at, ended_at, interrupted_at)
SELECT tenant_id, :copy_id, renamed(turn_id, :salt), input_sequence, renamed(input_event_id, :salt), fence, 0,
    stop_reason, error, usage, created_at, ended_at, interrupted_at
FROM turns WHERE session_id = :source_id AND id > :after AND id <= :until AND input_sequence <= :cut ORDER BY id;

-- name: copy_artifacts
-- Copy the rows of some files, given as a JSON list of their ids; the bytes are the same.
INSERT INTO artifacts (tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at,
    expires_at)
SELECT tenant_id, :copy_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at, expires_at
FROM artifacts WHERE session_id = :source_id AND artifact_id IN (SELECT value FROM json_each(:ids))
    AND (expires_at IS NULL OR expires_at > :now) ORDER BY id;

-- name: has_artifacts
-- Whether a session has a file.
SELECT 1 FROM artifacts WHERE session_id = :source_id LIMIT 1;

-- name: uploads_up_to
-- What tells of files up to a place of a log, without what was deleted.
SELECT body FROM events
WHERE session_id = :source_id AND sequence <= :cut AND type = 'artifact_upload' AND hidden <= 2 ORDER BY sequence;

-- name: summaries_up_to
-- The summaries up to a place of a log, without those that were deleted.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :source_id AND type = 'compaction' AND sequence <= :cut AND hidden <= 2;

-- name: turns_up_to
-- The turns up to a place of a log, and what each has used.
SELECT id, running, usage FROM turns WHERE session_id = :source_id AND input_sequence <= :cut ORDER BY id;

-- name: break_off_copied_turn
-- The last turn of a copy that goes no further ends as interrupted; what it has used by then nobody knows.
UPDATE turns SET stop_reason = 'interrupted', error = NULL, usage = X'7B7D', ended_at = :now, interrupted_at = :now
WHERE session_id = :copy_id AND turn_id = :turn_id;

-- name: claim_turn
-- Take the id of the first turn of an import; no row is added when some session has a turn of this id.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at)
VALUES (:tenant_id, :copy_id, :turn_id, 0, '', 1, 0, X'7B7D', :now)
ON CONFLICT (turn_id) DO NOTHING;

-- name: release_turn
-- Give up the place of a turn whose row comes now.
DELETE FROM turns WHERE turn_id = :turn_id AND session_id = :copy_id AND ended_at IS NULL;

-- name: insert_imported_event
-- Write one event of an import.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_ended_turn
-- Add a turn that has ended before it came here.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error,
    usage, created_at, ended_at)
VALUES (:tenant_id, :copy_id, :turn_id, :input_sequence, :input_event_id, 1, 0, :stop_reason, :error, :usage,
    :created_at, :ended_at);

-- name: insert_copied_session
-- Add the row of a session that is filled; no row comes back when the agent is not there.
INSERT INTO sessions (id, tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    stop_reason, last_sequence, last_event_id, usage, context_usage, created_at, updated_at, origin)
SELECT :copy_id, :tenant_id, id, :key, :name, :description, :metadata, :enabled, :tti_minutes, 1, :stop_reason,
    :last_sequence, :last_event_id, :usage, :context_usage, :now, :now, :origin
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key
RETURNING agent_id;

-- name: is_there
-- Whether a session can still be reached.
SELECT 1 FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: delete_idle_sessions
-- Remove the rows of a slice of the sessions that nobody has used for their time to idle.
DELETE FROM sessions WHERE id IN (
    SELECT id FROM sessions WHERE tti_minutes > 0 AND (running_turn IS NULL OR stop_reason = 'requires_action')
        AND updated_at + tti_minutes * 60000000 <= :now
    ORDER BY updated_at + tti_minutes * 60000000 LIMIT :slice)
RETURNING id;

-- name: standing_turn
-- Of a turn that runs under a fence: whether a caller wants it stopped, and whether inputs wait to join it.
SELECT t.interrupted_at IS NOT NULL, EXISTS (
    SELECT 1 FROM inputs i WHERE i.session_id = t.session_id AND i.waits AND i.behavior = 'steer')
FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.id = ? AND t.session_id = ? AND t.fence = ? AND t.running AND t.outstanding IS NULL;

-- name: withdrawn_inputs
-- Those of some inputs of a session, given as a JSON list, that do not wait any more and that no turn has taken.
SELECT event_id FROM inputs
WHERE session_id = :session_id AND event_id IN (SELECT value FROM json_each(:ids)) AND NOT waits
    AND taken_sequence IS NULL;

-- name: turn_of_call
-- The turn that a tool call of another turn has started, if its session is still there.
SELECT t.id, a.key, s.key FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.parent_turn_id = :turn_id AND t.parent_event_id = :event_id;

-- name: turns_above
-- A turn that runs and is not to be interrupted, and the turns that it was started by, one above the other: how many
-- they are, counting no more than a limit, and the uppermost; no row when the turn does not run.
WITH RECURSIVE above(turn_id, level) AS (
    SELECT t.turn_id, 1 FROM turns t JOIN sessions s ON s.running_turn = t.turn_id AND s.id = t.session_id
    WHERE t.turn_id = :turn_id AND t.interrupted_at IS NULL
    UNION ALL
    SELECT t.parent_turn_id, level + 1 FROM above JOIN turns t ON t.turn_id = above.turn_id
    WHERE t.parent_turn_id IS NOT NULL AND level < :limit)
SELECT level, turn_id FROM above ORDER BY level DESC LIMIT 1;

-- name: turns_in_tree
-- How many turns a turn and those below it are, ended ones too, counting no more than a limit.
WITH RECURSIVE tree(turn_id) AS (
    SELECT :turn_id
    UNION ALL
    SELECT t.turn_id FROM tree JOIN turns t ON t.parent_turn_id = tree.turn_id LIMIT :limit)
SELECT count(*) FROM tree;

-- name: turns_below
-- The sessions whose running turns were started by a turn, or by those that it has started, and so on.
WITH RECURSIVE below(turn_id) AS (
    SELECT :turn_id
    UNION
    SELECT t.turn_id FROM below JOIN turns t ON t.parent_turn_id = below.turn_id WHERE t.running = 1)
SELECT a.key, s.key FROM below JOIN sessions s ON s.running_turn = below.turn_id JOIN agents a ON a.id = s.agent_id
WHERE below.turn_id <> :turn_id;

-- name: insert_sub_session
-- Add a session that a tool call creates to an agent; no row comes back when the agent is not there.
INSERT INTO sessions (tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    last_sequence, usage, created_at, updated_at, creator)
SELECT :tenant_id, id, :key, :name, :description, :metadata, :enabled, :tti_minutes, 1, 0, X'7B7D', :now, :now, :creator
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key
RETURNING id, agent_id;

-- name: start_below
-- Remember which tool call has started a turn.
UPDATE turns SET parent_turn_id = :turn_id, parent_event_id = :event_id WHERE id = :id;

-- name: backlog
-- Inputs that wait, turns that run and turns that are parked, and deletions that are not over, of all tenants.
SELECT (SELECT count(*) FROM inputs WHERE waits),
    (SELECT count(*) FROM sessions WHERE running_turn IS NOT NULL AND stop_reason IS NOT 'requires_action'),
    (SELECT count(*) FROM sessions WHERE running_turn IS NOT NULL AND stop_reason = 'requires_action'),
    (SELECT count(*) FROM purges);

-- name: table_bytes
-- Every table with the bytes of its pages and of its indexes' pages, the largest first.
SELECT m.tbl_name, sum(s.pgsize) FROM sqlite_schema m JOIN dbstat s ON s.name = m.name AND s.aggregate = TRUE
WHERE m.tbl_name NOT LIKE 'sqlite\_%' ESCAPE '\' GROUP BY m.tbl_name ORDER BY sum(s.pgsize) DESC, m.tbl_name;

-- name: largest_sessions
-- The sessions with the largest logs: their keys, and how many events of how many bytes they have.
SELECT t.key, a.key, s.key, l.events, l.bytes
FROM (SELECT session_id, count(*) AS events, sum(length(body)) AS bytes FROM events GROUP BY session_id) l
    JOIN sessions s ON s.id = l.session_id JOIN agents a ON a.id = s.agent_id JOIN tenants t ON t.id = s.tenant_id
ORDER BY l.bytes DESC, s.id LIMIT :limit;

-- name: all_sessions
-- Sessions of all tenants after a cursor, oldest first.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id > :cursor ORDER BY s.id LIMIT :limit;
