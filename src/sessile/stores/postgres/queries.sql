-- name: begin
-- Begin a transaction that says in its writer's row which one it is. The values are put in as text, by us.
BEGIN; INSERT INTO writers (id, mark) VALUES ('{writer}', {mark})
ON CONFLICT (id) DO UPDATE SET mark = excluded.mark, used_at = excluded.used_at;

-- name: last_mark
-- Wait for the end of a writer's transaction, and say which was the last one that was committed.
INSERT INTO writers (id, mark) VALUES (:writer, 0) ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING mark;

-- name: forget_writers
-- Remove what writers have left that are gone for long.
DELETE FROM writers WHERE used_at < now() - interval '1 day';

-- name: server_time
-- The server's clock, in microseconds since the epoch.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- name: once_at_a_time
-- Wait until no other transaction works with the same idempotency key.
SELECT pg_advisory_xact_lock(hashtextextended(:tenant_id::bigint || ' ' || :scope::text || ' ' || :key::text, 0));

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
VALUES (:tenant_id, :key, :enabled, 1, :document::bytea, convert_from(:document, 'UTF8')::json ->> 'compaction',
    :now::bigint, :now)
RETURNING id;

-- name: get_agent
-- One agent by its key.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents WHERE tenant_id = :tenant_id AND key = :key;

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
UPDATE agents SET document = :document::bytea, compaction = convert_from(:document, 'UTF8')::json ->> 'compaction',
    enabled = :enabled, version = version + 1, updated_at = :now
WHERE id = :id AND version = :expected_version;

-- name: delete_agent
-- Remove an agent's row.
DELETE FROM agents WHERE tenant_id = :tenant_id AND key = :key RETURNING id;

-- name: insert_session
-- Add a session to an agent, which stays there meanwhile; no row comes back when it is not there.
INSERT INTO sessions (tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    last_sequence, usage, created_at, updated_at)
SELECT :tenant_id::bigint, id, :key::text, :name::text, :description::text, :metadata::bytea, :enabled::boolean,
    :tti_minutes::bigint, 1, 0, '{}'::bytea, :now::bigint, :now
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key FOR KEY SHARE
RETURNING id, agent_id, (SELECT compaction FROM agents WHERE agents.id = agent_id);

-- name: get_session
-- One session by the keys of its agent and its own.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: heads
-- The newest sequences of sessions.
SELECT s.id, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = ANY(:ids::bigint[]);

-- name: list_sessions
-- Sessions of an agent before a cursor, newest first.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.agent_id = :agent_id AND s.id < :cursor ORDER BY s.id DESC LIMIT :limit;

-- name: update_session
-- Replace the fields a caller may change.
UPDATE sessions SET name = :name, description = :description, metadata = :metadata, enabled = :enabled,
    tti_minutes = :tti_minutes, version = version + 1, updated_at = :now
WHERE id = :id;

-- name: session_to_run
-- A session and its agent, as its next turn needs them.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: unfinished_turns
-- For a change: sessions with a running turn that is not parked and whose lease has run out by a time, their agents,
-- the turn's row, and whether it came out of the queue and did nothing yet.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at,
    t.id, t.turn_id, t.fence, t.usage, t.interrupted_at, t.takes,
    s.last_sequence = t.input_sequence + 1 AND EXISTS (
        SELECT 1 FROM inputs i WHERE i.session_id = s.id AND i.taken_sequence = t.input_sequence)
FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id JOIN agents a ON a.id = s.agent_id
WHERE t.running AND t.outstanding IS NULL AND t.lease_until <= :by
ORDER BY s.id FOR UPDATE OF s, t;

-- name: interrupt_turn
-- Remember that a running turn shall stop, and since when.
UPDATE turns SET interrupted_at = :now WHERE turn_id = :turn_id AND running AND interrupted_at IS NULL;

-- name: take_up
-- Give running turns a new fencing token and a lease, and count that they were taken up.
UPDATE turns SET fence = fence + 1, takes = takes + 1, lease_until = :lease_until WHERE id = ANY(:turns::bigint[]);

-- name: insert_input
-- Add an input that waits.
INSERT INTO inputs (tenant_id, session_id, event_id, turn_id, behavior, body, upload, created_at, waits)
VALUES (:tenant_id, :session_id, :event_id, :turn_id, :behavior, :body, :upload, :now, true)
RETURNING id;

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
UPDATE inputs SET waits = false, taken_sequence = :sequence, turn_id = :turn_id, body = '', upload = NULL
WHERE id = :id;

-- name: withdraw_input
-- An input does not wait any more, and was not taken.
UPDATE inputs SET waits = false, body = '', upload = NULL WHERE id = :id;

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

-- name: list_events_asc
-- Events between two places of a log, oldest first, of some types or all. None once the session is gone: then they are
-- removed, the oldest first, and what is left would have a gap.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records::boolean OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden',
        'event_deleted', 'session_updated'))
    AND hidden <= :most_hidden
    AND (:types::text[] IS NULL OR type = ANY(:types))
    AND EXISTS (SELECT 1 FROM sessions s WHERE s.id = :session_id)
ORDER BY sequence LIMIT :limit;

-- name: list_events_desc
-- Events between two places of a log, newest first, of some types or all. None once the session is gone: then they are
-- removed, the oldest first, and what is left would have a gap.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records::boolean OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden',
        'event_deleted', 'session_updated'))
    AND hidden <= :most_hidden
    AND (:types::text[] IS NULL OR type = ANY(:types))
    AND EXISTS (SELECT 1 FROM sessions s WHERE s.id = :session_id)
ORDER BY sequence DESC LIMIT :limit;

-- name: purge_agent_later
-- Remember that an agent's sessions are to be removed.
INSERT INTO purges (agent_id) VALUES (:agent_id);

-- name: purge_idempotent
-- Remove a slice of the idempotency keys whose time is over.
DELETE FROM idempotency WHERE (tenant_id, scope, key) IN (
    SELECT tenant_id, scope, key FROM idempotency WHERE created_at <= :expired ORDER BY created_at LIMIT :slice
    FOR UPDATE SKIP LOCKED);

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
    (SELECT coalesce(json_agg(x.name), '[]')::text FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE id = :made;

-- name: made_turn
-- The turn that an idempotency key has made, and its input.
SELECT t.turn_id, t.running AND t.outstanding IS NULL, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden,
    e.body
FROM turns t JOIN events e ON e.session_id = t.session_id AND e.sequence = t.input_sequence WHERE t.id = :made;

-- name: made_outputs
-- The turn of tool outputs that an idempotency key has made, and the first of them.
SELECT t.turn_id, t.running AND t.outstanding IS NULL, e.id, e.sequence, e.turn_id, e.type, e.created_at, e.hidden,
    e.body
FROM events e JOIN turns t ON t.turn_id = e.turn_id WHERE e.session_id = :session_id AND e.sequence = :made;

-- name: wants_stop
-- For a change: whether a caller wants a turn stopped.
SELECT t.interrupted_at IS NOT NULL FROM turns t JOIN sessions s ON s.id = t.session_id WHERE t.id = :id
FOR UPDATE OF s, t;

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
UPDATE turns SET outstanding = :outstanding::text, fence = fence + (:outstanding::text IS NULL)::integer, takes = 0,
    lease_until = :lease_until
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

-- name: next_purge
-- For a change: what is to be removed next, and nobody removes already.
SELECT id, agent_id, session_id FROM purges ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: purge_events
-- Remove a slice of a session's events.
DELETE FROM events WHERE session_id = :session_id AND sequence IN (
    SELECT sequence FROM events WHERE session_id = :session_id ORDER BY sequence LIMIT :slice);

-- name: purge_turns
-- Remove a slice of a session's turns.
DELETE FROM turns WHERE id IN (SELECT id FROM turns WHERE session_id = :session_id LIMIT :slice);

-- name: purge_inputs
-- Remove a slice of a session's inputs that wait or have waited.
DELETE FROM inputs WHERE id IN (SELECT id FROM inputs WHERE session_id = :session_id LIMIT :slice);

-- name: end_purge
-- A removal is complete.
DELETE FROM purges WHERE id = :id;

-- name: lock_session
-- One session by the keys of its agent and its own, for a change.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key FOR UPDATE OF s;

-- name: get_agent_id
-- The internal id of an agent.
SELECT id FROM agents WHERE tenant_id = :tenant_id AND key = :key;

-- name: locate_session
-- The internal id, the key and the head of a session, for reading its log.
SELECT s.id, s.key, s.last_sequence FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: session_head
-- The same, by the internal id.
SELECT s.id, s.key, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: sessions_for_input
-- Sessions and their agents, as inputs need them, for a change; each with the number of the call that named it.
-- Locks are taken in the order of internal ids, so that batches do not wait for one another in a circle.
SELECT w.number, s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled,
    s.tti_minutes, s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM unnest(:tenants::bigint[], :agents::text[], :sessions::text[]) WITH ORDINALITY
    AS w (tenant_id, agent, session, number)
JOIN agents a ON a.tenant_id = w.tenant_id AND a.key = w.agent
JOIN sessions s ON s.agent_id = a.id AND s.key = w.session
ORDER BY s.id FOR UPDATE OF s;

-- name: expired_turns
-- The same without those that somebody writes at this moment, who is alive.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at,
    t.id, t.turn_id, t.fence, t.usage, t.interrupted_at, t.takes,
    s.last_sequence = t.input_sequence + 1 AND EXISTS (
        SELECT 1 FROM inputs i WHERE i.session_id = s.id AND i.taken_sequence = t.input_sequence)
FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id JOIN agents a ON a.id = s.agent_id
WHERE t.running AND t.outstanding IS NULL AND t.lease_until <= :by
ORDER BY s.id LIMIT :limit FOR UPDATE OF s, t SKIP LOCKED;

-- name: any_expired_turn
-- Whether the lease of a running turn has run out.
SELECT 1 FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id
WHERE t.running AND t.outstanding IS NULL AND t.lease_until <= :now LIMIT 1;

-- name: next_expiry
-- When the first lease of a running turn runs out.
SELECT min(t.lease_until) FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id
WHERE t.running AND t.outstanding IS NULL;

-- name: lock_turns
-- Running turns for a change, in the order in which all who change turns of several sessions lock them.
SELECT id, session_id, fence FROM turns WHERE id = ANY(:turns::bigint[]) AND running ORDER BY session_id, id FOR UPDATE;

-- name: renew_leases
-- Whoever runs turns keeps them for longer.
UPDATE turns SET lease_until = :lease_until WHERE id = ANY(:turns::bigint[]);

-- name: hand_over
-- Running turns are left on purpose: anybody may take them up now, and that take does not count.
UPDATE turns SET takes = takes - 1, lease_until = 0 WHERE id = ANY(:turns::bigint[]);

-- name: fenced_turns
-- For a change: turns that run, and the heads of their sessions' logs; locked in the order of sessions.
SELECT t.id, t.session_id, t.fence, t.turn_id, t.tenant_id, s.key, s.last_sequence, s.last_event_id
FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.id = ANY(:turns::bigint[]) AND t.running AND t.outstanding IS NULL
ORDER BY s.id FOR UPDATE OF s, t;

-- name: insert_events
-- Append events to logs; whoever calls moves their heads.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
SELECT e.tenant_id, e.session_id, e.sequence, e.id, e.turn_id, e.type, 0, e.created_at, e.body
FROM ROWS FROM (
    json_to_recordset(:events::json) AS (tenant_id bigint, session_id bigint, sequence bigint, id text, turn_id text,
        type text, created_at bigint),
    unnest(:bodies::bytea[])
) AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body);

-- name: append_events
-- Append events to the logs of running turns, move the heads, and end the turns that have a reason to stop. A turn's row
-- is written only when its usage has changed, or it ends. What a row keeps as bytes is base64 in `moves`, of which there are
-- `count`: a plan for an unknown number would read all sessions rather than look some up.
-- Says of each session whether inputs wait (1: one to steer the turn).
WITH appended AS (
    INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
    SELECT e.tenant_id, e.session_id, e.sequence, e.id, e.turn_id, e.type, 0, e.created_at, e.body
    FROM ROWS FROM (
        json_to_recordset(:events::json) AS (tenant_id bigint, session_id bigint, sequence bigint, id text, turn_id text,
            type text, created_at bigint),
        unnest(:bodies::bytea[])
    ) AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body)
), moves AS MATERIALIZED (
    SELECT m.turn, m.session_id, m.head, m.last_event_id, decode(m.turn_usage, 'base64') AS turn_usage,
        decode(m.session_usage, 'base64') AS session_usage, decode(m.context_usage, 'base64') AS context_usage,
        m.updated_at, m.stop_reason, decode(m.error, 'base64') AS error
    FROM json_to_recordset(:moves::json) AS m (turn bigint, session_id bigint, head bigint, last_event_id text,
        turn_usage text, session_usage text, context_usage text, updated_at bigint, stop_reason text, error text)
    LIMIT :count::bigint
), advanced AS (
    UPDATE turns t SET usage = m.turn_usage, running = m.stop_reason IS NULL, stop_reason = m.stop_reason,
        error = m.error, ended_at = CASE WHEN m.stop_reason IS NOT NULL THEN m.updated_at END
    FROM moves m
    WHERE t.id = m.turn AND (t.usage <> m.turn_usage OR m.stop_reason IS NOT NULL)
)
UPDATE sessions s SET last_sequence = m.head, last_event_id = m.last_event_id, usage = m.session_usage,
    context_usage = coalesce(m.context_usage, s.context_usage), updated_at = m.updated_at,
    running_turn = CASE WHEN m.stop_reason IS NULL THEN s.running_turn END, stop_reason = m.stop_reason
FROM moves m
WHERE s.id = m.session_id
RETURNING s.id, (SELECT max((i.behavior = 'steer')::integer) FROM inputs i WHERE i.session_id = s.id AND i.waits);

-- name: open_turns
-- Append inputs and their `turn_started` to logs, and start and claim their turns.
WITH appended AS (
    INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
    SELECT e.tenant_id, e.session_id, e.sequence, e.id, e.turn_id, e.type, 0, e.created_at, e.body
    FROM ROWS FROM (
        json_to_recordset(:events::json) AS (tenant_id bigint, session_id bigint, sequence bigint, id text, turn_id text,
            type text, created_at bigint),
        unnest(:bodies::bytea[])
    ) AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body)
), started AS (
    UPDATE sessions s SET running_turn = w.turn_id, stop_reason = NULL, last_sequence = w.head,
        last_event_id = w.last_event_id, updated_at = w.created_at
    FROM unnest(:sessions::bigint[], :turn_ids::text[], :heads::bigint[], :last_event_ids::text[], :times::bigint[])
        AS w (id, turn_id, head, last_event_id, created_at)
    WHERE s.id = w.id
)
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at,
    lease_until)
SELECT w.tenant_id, w.session_id, w.turn_id, w.input_sequence, w.input_event_id, 1, true, '{}'::bytea, w.created_at,
    w.lease_until
FROM unnest(:tenants::bigint[], :sessions::bigint[], :turn_ids::text[], :sequences::bigint[], :event_ids::text[],
    :times::bigint[], :leases::bigint[])
    AS w (tenant_id, session_id, turn_id, input_sequence, input_event_id, created_at, lease_until)
RETURNING turn_id, id;

-- name: find_idempotents
-- What idempotency keys have made, and the fingerprints they came with, unless their time is over.
SELECT scope, made, fingerprint FROM idempotency JOIN unnest(:tenants::bigint[], :scopes::text[], :keys::text[])
    AS w (tenant_id, scope, key) USING (tenant_id, scope, key)
WHERE created_at > :expired;

-- name: keep_idempotents
-- Remember what idempotency keys have made, in place of what they made before their time was over.
INSERT INTO idempotency (tenant_id, scope, key, fingerprint, made, created_at)
SELECT * FROM unnest(:tenants::bigint[], :scopes::text[], :keys::text[], :fingerprints::bytea[], :made::bigint[],
    :times::bigint[])
ON CONFLICT (tenant_id, scope, key) DO UPDATE
SET fingerprint = excluded.fingerprint, made = excluded.made, created_at = excluded.created_at;

-- name: purge_keys_of_inputs
-- Remove a slice of the idempotency keys of a session's inputs.
DELETE FROM idempotency WHERE (tenant_id, scope, key) IN (
    SELECT tenant_id, scope, key FROM idempotency
    WHERE tenant_id IN (SELECT id FROM tenants) AND scope = :scope LIMIT :slice);

-- name: purge_sessions
-- Remove some sessions' rows of an agent, and remember them.
WITH gone AS (
    DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE agent_id = :agent_id ORDER BY id LIMIT :slice)
    RETURNING id
)
INSERT INTO purges (session_id) SELECT id FROM gone;

-- name: lock_agent
-- The internal id of an agent, which is neither changed nor deleted meanwhile.
SELECT id FROM agents WHERE tenant_id = :tenant_id AND key = :key FOR UPDATE;

-- name: agents_to_match
-- Names and descriptions of some agents before a cursor, newest first.
SELECT id, enabled, convert_from(document, 'UTF8')::json ->> 'name',
    convert_from(document, 'UTF8')::json ->> 'description'
FROM agents WHERE tenant_id = :tenant_id AND id < :cursor ORDER BY id DESC LIMIT :examined;

-- name: agents_of
-- Agents by their internal ids, newest first.
SELECT id, tenant_id, key, enabled, version, document, created_at, updated_at
FROM agents WHERE id = ANY(:ids::bigint[]) ORDER BY id DESC;

-- name: candidates_of_agent
-- Ids of an agent's sessions before a cursor, newest first.
SELECT id FROM sessions WHERE agent_id = :scope AND id < :cursor ORDER BY id DESC LIMIT :slice;

-- name: candidates_of_tenant
-- Ids of a tenant's sessions before a cursor, newest first.
SELECT id FROM sessions WHERE tenant_id = :scope AND id < :cursor ORDER BY id DESC LIMIT :slice;

-- name: candidates_of_agent_by_term
-- Ids of an agent's sessions before a cursor that have a term in their metadata, or may have it, newest first.
SELECT session_id FROM (
    (SELECT session_id FROM session_terms WHERE agent_id = :scope AND term = :term AND session_id < :cursor
        ORDER BY session_id DESC LIMIT :slice)
    UNION ALL
    (SELECT session_id FROM session_terms WHERE agent_id = :scope AND term = 0 AND session_id < :cursor
        ORDER BY session_id DESC LIMIT :slice)
) found ORDER BY session_id DESC LIMIT :slice;

-- name: candidates_of_tenant_by_term
-- Ids of a tenant's sessions before a cursor that have a term in their metadata, or may have it, newest first.
SELECT session_id FROM (
    (SELECT session_id FROM session_terms WHERE tenant_id = :scope AND term = :term AND session_id < :cursor
        ORDER BY session_id DESC LIMIT :slice)
    UNION ALL
    (SELECT session_id FROM session_terms WHERE tenant_id = :scope AND term = 0 AND session_id < :cursor
        ORDER BY session_id DESC LIMIT :slice)
) found ORDER BY session_id DESC LIMIT :slice;

-- name: candidates_running
-- Ids of a tenant's sessions before a cursor in which a turn runs or is parked, newest first.
SELECT DISTINCT session_id FROM turns WHERE tenant_id = :scope AND running AND session_id < :cursor
ORDER BY session_id DESC LIMIT :slice;

-- name: find_sessions
-- Those of some sessions that a query takes, but for its pattern, newest first. A condition on metadata stands in the
-- place of the last TRUE, and its values come behind these.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.id = ANY(:ids::bigint[])
    AND (:agents::bigint[] IS NULL OR s.agent_id = ANY(:agents))
    AND (:status::text IS NULL OR :status = CASE
        WHEN s.running_turn IS NOT NULL AND s.stop_reason IS DISTINCT FROM 'requires_action' THEN 'running'
        WHEN s.last_sequence > 0 THEN 'stopped' ELSE 'unstarted' END)
    AND s.created_at > :created_after AND s.created_at < :created_before
    AND s.updated_at > :updated_after AND s.updated_at < :updated_before
    AND TRUE
ORDER BY s.id DESC LIMIT :limit;

-- name: sizes_of_metadata
-- How many bytes the metadata of some sessions have.
SELECT id, octet_length(metadata) FROM sessions WHERE id = ANY(:ids::bigint[]);

-- name: insert_terms
-- Remember the terms of a session's metadata.
INSERT INTO session_terms (session_id, term, tenant_id, agent_id)
SELECT :session_id::bigint, term, :tenant_id::bigint, :agent_id::bigint FROM unnest(:terms::bigint[]) AS w (term);

-- name: delete_terms
-- Forget the terms of a session's metadata.
DELETE FROM session_terms WHERE session_id = :session_id;

-- name: look_later
-- When to look whether a session is idle, and since when that counts.
INSERT INTO idle (session_id, since, look_at) VALUES (:session_id, :since, :look_at)
ON CONFLICT (session_id) DO UPDATE SET since = excluded.since, look_at = excluded.look_at;

-- name: look_no_more
-- Sessions have no time to idle, or are gone.
DELETE FROM idle WHERE session_id = ANY(:sessions::bigint[]);

-- name: anything_to_look_at
-- Whether a session may be idle.
SELECT 1 FROM idle WHERE look_at <= :now OR since > :now LIMIT 1;

-- name: to_look_at
-- For a change: a slice of the sessions that may be idle and that nobody looks at already. What counts since a time that
-- is still to come was written before a clock was set back.
SELECT session_id FROM idle WHERE look_at <= :now OR since > :now ORDER BY look_at LIMIT :slice FOR UPDATE SKIP LOCKED;

-- name: are_there
-- Those of some sessions that are there.
SELECT id FROM sessions WHERE id = ANY(:sessions::bigint[]);

-- name: lock_idle
-- Those of some sessions that nobody changes now, for a change: how long they may idle, since when, whether a turn runs.
SELECT id, tti_minutes, updated_at, running_turn IS NOT NULL AND stop_reason IS DISTINCT FROM 'requires_action'
FROM sessions WHERE id = ANY(:sessions::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED;

-- name: delete_sessions
-- Remove the rows of sessions.
DELETE FROM sessions WHERE id = ANY(:sessions::bigint[]);

-- name: purge_sessions_later
-- Remember that the events and turns of sessions are to be removed.
INSERT INTO purges (session_id) SELECT * FROM unnest(:sessions::bigint[]);

-- name: secret_names
-- The names of an owner's secrets.
SELECT name FROM secrets WHERE session_id = :session_id AND agent_id = :agent_id ORDER BY name;

-- name: session_secret_names
-- The names of the secrets of sessions.
SELECT session_id, name FROM secrets WHERE session_id = ANY(:ids::bigint[]) AND session_id <> 0
ORDER BY session_id, name;

-- name: sealed_secrets
-- The secrets of an agent, then those of a session of it.
SELECT agent_id, session_id, name, key_id, value FROM secrets
WHERE session_id IN (0, :session_id::bigint) AND agent_id = :agent_id ORDER BY session_id, name;

-- name: write_secrets
-- Set secrets of one owner.
INSERT INTO secrets (session_id, agent_id, name, key_id, value)
SELECT :session_id::bigint, :agent_id::bigint, w.name, :key_id::text, w.value
FROM unnest(:names::text[], :sealed::bytea[]) AS w (name, value)
ON CONFLICT (session_id, agent_id, name) DO UPDATE SET key_id = excluded.key_id, value = excluded.value;

-- name: delete_secrets
-- Remove secrets of one owner by their names.
DELETE FROM secrets WHERE session_id = :session_id AND agent_id = :agent_id AND name = ANY(:names::text[]);

-- name: delete_agent_secrets
-- Remove all secrets of an agent's own, or of a tool server's under its id, negative.
DELETE FROM secrets WHERE session_id = 0 AND agent_id = :agent_id;

-- name: delete_session_secrets
-- Remove all secrets of sessions.
DELETE FROM secrets WHERE session_id = ANY(:sessions::bigint[]) AND session_id <> 0;

-- name: secrets_key
-- The key that new secrets are encrypted with.
SELECT key_id FROM secrets_key WHERE id = 1;

-- name: hold_secrets_key
-- The same; nobody changes it meanwhile.
SELECT key_id FROM secrets_key WHERE id = 1 FOR SHARE;

-- name: first_secrets_key
-- Let secrets be encrypted with a key, unless there is one already.
INSERT INTO secrets_key (id, key_id) VALUES (1, :key_id) ON CONFLICT (id) DO NOTHING;

-- name: use_secrets_key
-- Let new secrets be encrypted with a key.
INSERT INTO secrets_key (id, key_id) VALUES (1, :key_id) ON CONFLICT (id) DO UPDATE SET key_id = excluded.key_id;

-- name: secrets_under_other_keys
-- Some secrets that are not encrypted with a key.
SELECT agent_id, session_id, name, key_id, value FROM secrets WHERE key_id <> :key_id LIMIT :limit;

-- name: replace_sealed
-- Encrypt secrets anew that nobody has changed meanwhile.
UPDATE secrets s SET key_id = w.key_id, value = w.value
FROM unnest(:sessions::bigint[], :agents::bigint[], :names::text[], :key_ids::text[], :sealed::bytea[], :old::bytea[])
    AS w (session_id, agent_id, name, key_id, value, old)
WHERE s.session_id = w.session_id AND s.agent_id = w.agent_id AND s.name = w.name AND s.value = w.old;

-- name: insert_artifacts
-- Add files to sessions.
INSERT INTO artifacts (tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at,
    expires_at)
SELECT * FROM unnest(:tenants::bigint[], :sessions::bigint[], :ids::text[], :names::text[], :types::text[],
    :sizes::bigint[], :hashes::text[], :ttls::bigint[], :times::bigint[], :ends::bigint[]);

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
SELECT count(*), coalesce(sum(size), 0)::bigint FROM artifacts
WHERE session_id = :session_id AND (expires_at IS NULL OR expires_at > :now);

-- name: expired_artifact
-- Whether the time of some file is over.
SELECT 1 FROM artifacts WHERE expires_at <= :now LIMIT 1;

-- name: take_expired_artifacts
-- Remove some files whose time is over and that nobody else removes, and tell which bytes they named.
DELETE FROM artifacts WHERE id IN (
    SELECT id FROM artifacts WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING tenant_id, sha256;

-- name: named_files
-- Which of these bytes some file still names.
SELECT w.tenant_id, w.sha256 FROM unnest(:tenants::bigint[], :hashes::text[]) AS w (tenant_id, sha256)
WHERE EXISTS (SELECT 1 FROM artifacts a WHERE a.sha256 = w.sha256 AND a.tenant_id = w.tenant_id);

-- name: expire_files
-- The time of some files of a session is over.
UPDATE artifacts SET expires_at = 0 WHERE session_id = :session_id AND artifact_id = ANY(:ids::text[]);

-- name: expire_artifacts
-- The time of a slice of a session's files is over: the session is gone.
UPDATE artifacts SET expires_at = 0 WHERE id IN (
    SELECT id FROM artifacts WHERE session_id = :session_id AND coalesce(expires_at, 1) > 0 LIMIT :slice);

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
SELECT count(*) FILTER (WHERE type = 'input_message'), count(*) FROM events
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

-- name: insert_turn
-- Start and claim a turn that comes with no input.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at,
    lease_until)
VALUES (:tenant_id, :session_id, :turn_id, :head, '', 1, true, '{}'::bytea, :now, :lease_until)
RETURNING id;

-- name: next_session_id
-- Take an internal id for a session whose row comes later: nobody else gets it.
SELECT nextval(pg_get_serial_sequence('sessions', 'id'));

-- name: begin_copy
-- Remember that a session is being filled.
INSERT INTO copies (session_id, touched_at) VALUES (:copy_id, :now);

-- name: touch_copy
-- Somebody still fills the session.
UPDATE copies SET touched_at = :now WHERE session_id = :copy_id;

-- name: end_copy
-- A session is filled, or given up.
DELETE FROM copies WHERE session_id = :copy_id;

-- name: give_up_stale_copies
-- Remember to remove what was copied into sessions that nobody goes on to fill.
WITH stale AS (DELETE FROM copies WHERE touched_at <= :stale RETURNING session_id)
INSERT INTO purges (session_id) SELECT session_id FROM stale;

-- name: hold_session
-- Whether a session can still be reached; if so, it is not deleted meanwhile.
SELECT 1 FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id FOR KEY SHARE OF s;

-- name: events_to_copy
-- A slice of a log up to a place: where each event stands, its ids, its size, and its body if it names other events.
SELECT sequence, id, turn_id, octet_length(body), CASE WHEN type = ANY(:referring::text[]) THEN body END FROM events
WHERE session_id = :source_id AND sequence > :after AND sequence <= :cut ORDER BY sequence LIMIT :slice;

-- name: copy_events
-- Copy events under new ids; bodies come along only where they are new. What a summary hides that is not copied is
-- visible again.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
SELECT e.tenant_id, :copy_id::bigint, e.sequence, w.id, w.turn_id, e.type,
    CASE WHEN e.hidden = 1 AND e.sequence > :covered THEN 0 ELSE e.hidden END, e.created_at, coalesce(w.body, e.body)
FROM unnest(:sequences::bigint[], :ids::text[], :turns::text[], :bodies::bytea[]) AS w (sequence, id, turn_id, body)
JOIN events e ON e.session_id = :source_id AND e.sequence = w.sequence;

-- name: turns_to_copy
-- A slice of the turns up to a place of a log.
SELECT id, turn_id, input_event_id, usage FROM turns
WHERE session_id = :source_id AND id > :after AND input_sequence <= :cut ORDER BY id LIMIT :slice;

-- name: copy_turns
-- Copy turns under new ids, in the same order.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error,
    usage, created_at, ended_at, interrupted_at, lease_until)
SELECT t.tenant_id, :copy_id::bigint, w.turn_id, t.input_sequence, w.event_id, t.fence, false, t.stop_reason, t.error,
    t.usage, t.created_at, t.ended_at, t.interrupted_at, 0
FROM unnest(:turns::bigint[], :turn_ids::text[], :event_ids::text[]) AS w (id, turn_id, event_id)
JOIN turns t ON t.id = w.id ORDER BY w.id;

-- name: break_off_copied_turn
-- The last turn of a copy that goes no further ends as interrupted; what it has used by then nobody knows.
UPDATE turns SET stop_reason = 'interrupted', error = NULL, usage = '{}'::bytea, ended_at = :now, interrupted_at = :now
WHERE session_id = :copy_id AND turn_id = :turn_id;

-- name: claim_turn
-- Take the id of the first turn of an import; no row is added when some session has a turn of this id.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, usage, created_at, lease_until)
VALUES (:tenant_id, :copy_id, :turn_id, 0, '', 1, false, '{}'::bytea, :now, 0)
ON CONFLICT (turn_id) DO NOTHING;

-- name: release_turn
-- Give up the place of a turn whose row comes now.
DELETE FROM turns WHERE turn_id = :turn_id AND session_id = :copy_id AND ended_at IS NULL;

-- name: insert_imported_events
-- Write events of an import.
INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
SELECT :tenant_id::bigint, :copy_id::bigint, w.sequence, w.id, w.turn_id, w.type, w.hidden, w.created_at, w.body
FROM unnest(:sequences::bigint[], :ids::text[], :turns::text[], :types::text[], :hidden::smallint[], :times::bigint[],
    :bodies::bytea[]) AS w (sequence, id, turn_id, type, hidden, created_at, body);

-- name: insert_ended_turns
-- Add turns that have ended before they came here, in their order.
INSERT INTO turns (tenant_id, session_id, turn_id, input_sequence, input_event_id, fence, running, stop_reason, error,
    usage, created_at, ended_at, lease_until)
SELECT :tenant_id::bigint, :copy_id::bigint, w.turn_id, w.input_sequence, w.input_event_id, 1, false, w.stop_reason,
    w.error, w.usage, w.created_at, w.ended_at, 0
FROM unnest(:turn_ids::text[], :sequences::bigint[], :event_ids::text[], :stop_reasons::text[], :errors::bytea[],
    :usages::bytea[], :starts::bigint[], :ends::bigint[]) WITH ORDINALITY
    AS w (turn_id, input_sequence, input_event_id, stop_reason, error, usage, created_at, ended_at, place)
ORDER BY w.place;

-- name: insert_copied_session
-- Add the row of a session that is filled to an agent, which stays there; no row comes back when it is not there.
INSERT INTO sessions (id, tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    stop_reason, last_sequence, last_event_id, usage, context_usage, created_at, updated_at, origin)
OVERRIDING SYSTEM VALUE
SELECT :copy_id::bigint, :tenant_id::bigint, id, :key::text, :name::text, :description::text, :metadata::bytea,
    :enabled::boolean, :tti_minutes::bigint, 1, :stop_reason::text, :last_sequence::bigint, :last_event_id::text,
    :usage::bytea, :context_usage::bytea, :now::bigint, :now, :origin::bytea
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key FOR KEY SHARE
RETURNING agent_id;

-- name: insert_tool_server
-- Add a tool server.
INSERT INTO tool_servers (tenant_id, key, enabled, document, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, :document, :now::bigint, :now) RETURNING id;

-- name: get_tool_server
-- One tool server by its key.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT coalesce(json_agg(x.name), '[]')::text FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE tenant_id = :tenant_id AND key = :key;

-- name: lock_tool_server
-- The same, for a change of it or of its tools.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT coalesce(json_agg(x.name), '[]')::text FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers WHERE tenant_id = :tenant_id AND key = :key FOR UPDATE;

-- name: list_tool_servers
-- Tool servers of a tenant before a cursor, newest first.
SELECT id, tenant_id, key, enabled, document, created_at, updated_at,
    (SELECT coalesce(json_agg(x.name), '[]')::text FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -tool_servers.id)
FROM tool_servers
WHERE tenant_id = :tenant_id AND id < :cursor AND (:enabled::boolean IS NULL OR enabled = :enabled)
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

-- name: keep_tools
-- Add tools of a tool server, or renew what the server says of them; their keys and whether they are enabled stay.
INSERT INTO tools (tenant_id, server_id, key, name, enabled, document, created_at, updated_at)
SELECT :tenant_id::bigint, :server_id::bigint, w.key, w.name, true, w.document, :now::bigint, :now
FROM unnest(:keys::text[], :names::text[], :documents::bytea[]) WITH ORDINALITY AS w (key, name, document, place)
ORDER BY w.place
ON CONFLICT (server_id, name) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at
WHERE tools.document <> excluded.document;

-- name: forget_tools
-- Remove the tools of a tool server that it does not have any more.
DELETE FROM tools WHERE server_id = :server_id AND NOT name = ANY(:names::text[]);

-- name: get_tool
-- One tool by its key.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key
FROM tools t JOIN tool_servers s ON s.id = t.server_id WHERE t.tenant_id = :tenant_id AND t.key = :key;

-- name: list_tools
-- Tools of a tenant, or of one of its tool servers, before a cursor, newest first.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key
FROM tools t JOIN tool_servers s ON s.id = t.server_id
WHERE t.tenant_id = :tenant_id AND t.id < :cursor AND (:enabled::boolean IS NULL OR t.enabled = :enabled)
    AND (:server_key::text IS NULL OR s.key = :server_key)
ORDER BY t.id DESC LIMIT :limit;

-- name: enable_tool
-- Whether a tool may be used.
UPDATE tools SET enabled = :enabled, updated_at = :now WHERE tenant_id = :tenant_id AND key = :key;

-- name: delete_tool
-- Remove a tool's row.
DELETE FROM tools WHERE tenant_id = :tenant_id AND key = :key;

-- name: usable_tools
-- Those of some tools that are enabled, with their tool servers that are.
SELECT t.id, t.key, t.name, t.enabled, t.document, t.created_at, t.updated_at, s.key,
    s.id, s.tenant_id, s.key, s.enabled, s.document, s.created_at, s.updated_at,
    (SELECT coalesce(json_agg(x.name), '[]')::text FROM secrets x WHERE x.session_id = 0 AND x.agent_id = -s.id)
FROM tools t JOIN tool_servers s ON s.id = t.server_id
WHERE t.tenant_id = :tenant_id AND t.key = ANY(:keys::text[]) AND t.enabled AND s.enabled;

-- name: purge_copy_later
-- Remember that what was copied into a session that nobody goes on to fill is to be removed.
INSERT INTO purges (session_id) VALUES (:copy_id);

-- name: standing_turns
-- Those of some turns that run, their fences, whether a caller wants them stopped, and whether inputs wait to join them.
SELECT t.id, t.session_id, t.fence, t.interrupted_at IS NOT NULL, EXISTS (
    SELECT 1 FROM inputs i WHERE i.session_id = t.session_id AND i.waits AND i.behavior = 'steer')
FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.id = ANY(:turns::bigint[]) AND t.running AND t.outstanding IS NULL;

-- name: withdrawn_inputs
-- Those of some inputs of a session that do not wait any more and that no turn has taken.
SELECT event_id FROM inputs
WHERE session_id = :session_id AND event_id = ANY(:ids::text[]) AND NOT waits AND taken_sequence IS NULL;

-- name: lock_sessions
-- Sessions by their internal ids, for a change, in the order in which all who change several sessions lock them.
SELECT id FROM sessions WHERE id = ANY(:ids::bigint[]) ORDER BY id FOR UPDATE;

-- name: lock_running
-- Sessions by their internal ids and their turns that have not ended, for a change. Who waits for turns alone, such as
-- a renewal, goes in the same order: each session, then its turn.
SELECT s.id FROM sessions s JOIN turns t ON t.session_id = s.id AND t.turn_id = s.running_turn
WHERE s.id = ANY(:ids::bigint[]) ORDER BY s.id FOR UPDATE OF s, t;

-- name: turn_of_call
-- The turn that a tool call of another turn has started, if its session is still there.
SELECT t.id, a.key, s.key FROM turns t JOIN sessions s ON s.id = t.session_id JOIN agents a ON a.id = s.agent_id
WHERE t.parent_turn_id = :turn_id AND t.parent_event_id = :event_id;

-- name: turns_above
-- A turn that runs and is not to be interrupted, and the turns that it was started by, one above the other: how many
-- they are, counting no more than a limit, and the uppermost; no row when the turn does not run.
WITH RECURSIVE above (turn_id, level) AS (
    SELECT t.turn_id, 1 FROM turns t JOIN sessions s ON s.running_turn = t.turn_id AND s.id = t.session_id
    WHERE t.turn_id = :turn_id AND t.interrupted_at IS NULL
    UNION ALL
    SELECT t.parent_turn_id, above.level + 1 FROM above JOIN turns t ON t.turn_id = above.turn_id
    WHERE t.parent_turn_id IS NOT NULL AND above.level < :limit)
SELECT level, turn_id FROM above ORDER BY level DESC LIMIT 1;

-- name: turns_in_tree
-- How many turns a turn and those below it are, ended ones too, counting no more than a limit.
WITH RECURSIVE tree (turn_id) AS (
    SELECT :turn_id::text
    UNION ALL
    SELECT t.turn_id FROM tree JOIN turns t ON t.parent_turn_id = tree.turn_id)
SELECT count(*) FROM (SELECT 1 FROM tree LIMIT :limit) counted;

-- name: turns_below
-- The sessions whose running turns were started by a turn, or by those that it has started, and so on.
WITH RECURSIVE below (turn_id, session_id) AS (
    SELECT t.turn_id, t.session_id FROM turns t WHERE t.turn_id = :turn_id
    UNION
    SELECT t.turn_id, t.session_id FROM below JOIN turns t ON t.parent_turn_id = below.turn_id WHERE t.running)
SELECT s.id, a.key, s.key FROM below JOIN sessions s ON s.id = below.session_id AND s.running_turn = below.turn_id
JOIN agents a ON a.id = s.agent_id WHERE below.turn_id <> :turn_id ORDER BY s.id;

-- name: insert_sub_session
-- Add a session that a tool call creates to an agent, which stays there; no row comes back when it is not there.
INSERT INTO sessions (tenant_id, agent_id, key, name, description, metadata, enabled, tti_minutes, version,
    last_sequence, usage, created_at, updated_at, creator)
SELECT :tenant_id::bigint, id, :key::text, :name::text, :description::text, :metadata::bytea, :enabled::boolean,
    :tti_minutes::bigint, 1, 0, '{}'::bytea, :now::bigint, :now, :creator::bytea
FROM agents WHERE tenant_id = :tenant_id AND key = :agent_key FOR KEY SHARE
RETURNING id, agent_id;

-- name: start_below
-- Remember which tool call has started a turn.
UPDATE turns SET parent_turn_id = :turn_id, parent_event_id = :event_id WHERE id = :id;

-- name: copy_artifacts
-- Copy the rows of some files; the bytes are the same.
INSERT INTO artifacts (tenant_id, session_id, artifact_id, name, content_type, size, sha256, ttl_days, created_at,
    expires_at)
SELECT tenant_id, :copy_id::bigint, artifact_id, name, content_type, size, sha256, ttl_days, created_at, expires_at
FROM artifacts WHERE session_id = :source_id AND artifact_id = ANY(:ids::text[])
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

-- name: backlog
-- Inputs that wait, turns that run and turns that are parked, and deletions that are not over, of all tenants.
SELECT (SELECT count(*) FROM inputs WHERE waits),
    (SELECT count(*) FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id
        WHERE t.running AND s.stop_reason IS DISTINCT FROM 'requires_action'),
    (SELECT count(*) FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id
        WHERE t.running AND s.stop_reason = 'requires_action'),
    (SELECT count(*) FROM purges);

-- name: table_bytes
-- Every table with the bytes of its pages and of its indexes' pages, the largest first.
SELECT relname, pg_total_relation_size(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY 2 DESC, 1;

-- name: count_rows
-- How many rows a table has; its name stands in the place of the last TRUE.
SELECT count(*) FROM TRUE;

-- name: read_rows
-- Every value of a table, written out; the table stands in the place of the last TRUE.
SELECT max(length(t::text)) FROM TRUE;

-- name: has_amcheck
-- Whether the server can check indexes, and lets us.
SELECT 1 FROM pg_extension e JOIN pg_proc p ON p.pronamespace = e.extnamespace AND p.proname = 'bt_index_check'
WHERE e.extname = 'amcheck' AND p.pronargs = 2 AND has_function_privilege(p.oid, 'EXECUTE');

-- name: indexes
-- All indexes that are trees.
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam AND a.amname = 'btree'
WHERE c.relkind = 'i' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1;

-- name: check_index
-- Whether an index is in order and has all rows of its table. Writers do not wait for it.
SELECT bt_index_check(:name::text::regclass, true);

-- name: largest_sessions
-- The sessions with the largest logs: their keys, and how many events of how many bytes they have.
SELECT t.key, a.key, s.key, l.events, l.bytes
FROM (SELECT session_id, count(*) AS events, sum(octet_length(body))::bigint AS bytes FROM events
        GROUP BY session_id) l
    JOIN sessions s ON s.id = l.session_id JOIN agents a ON a.id = s.agent_id JOIN tenants t ON t.id = s.tenant_id
ORDER BY l.bytes DESC, s.id LIMIT :limit;

-- name: all_sessions
-- Sessions of all tenants after a cursor, oldest first.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at, s.origin, a.compaction, s.creator
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id > :cursor ORDER BY s.id LIMIT :limit;
