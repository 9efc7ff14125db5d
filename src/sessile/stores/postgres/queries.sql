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
INSERT INTO agents (tenant_id, key, enabled, version, document, created_at, updated_at)
VALUES (:tenant_id, :key, :enabled, 1, :document, :now::bigint, :now) RETURNING id;

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
UPDATE agents SET document = :document, enabled = :enabled, version = version + 1, updated_at = :now
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
RETURNING id, agent_id;

-- name: get_session
-- One session by the keys of its agent and its own.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at
FROM agents a JOIN sessions s ON s.agent_id = a.id
WHERE a.tenant_id = :tenant_id AND a.key = :agent_key AND s.key = :session_key;

-- name: heads
-- The newest sequences of sessions.
SELECT s.id, s.last_sequence FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = ANY(:ids::bigint[]);

-- name: list_sessions
-- Sessions of an agent before a cursor, newest first.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.agent_id = :agent_id AND s.id < :cursor ORDER BY s.id DESC LIMIT :limit;

-- name: update_session
-- Replace the fields a caller may change.
UPDATE sessions SET name = :name, description = :description, metadata = :metadata, enabled = :enabled,
    tti_minutes = :tti_minutes, version = version + 1, updated_at = :now
WHERE id = :id;

-- name: delete_session
-- Remove a session's row.
DELETE FROM sessions WHERE id = :id;

-- name: session_to_run
-- A session and its agent, as its next turn needs them.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :session_id;

-- name: unfinished_turns
-- For a change: sessions with a running turn that is not parked and whose lease has run out by a time, their agents,
-- the turn's row, and whether it came out of the queue and did nothing yet.
SELECT s.id, s.tenant_id, s.agent_id, a.key, s.key, s.name, s.description, s.metadata, s.enabled, s.tti_minutes,
    s.version, s.running_turn, s.stop_reason, s.last_sequence, s.last_event_id, s.usage, s.context_usage,
    s.created_at, s.updated_at,
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
INSERT INTO inputs (tenant_id, session_id, event_id, turn_id, behavior, body, created_at, waits)
VALUES (:tenant_id, :session_id, :event_id, :turn_id, :behavior, :body, :now, true)
RETURNING id;

-- name: count_waiting
-- How many inputs of a session wait.
SELECT count(*) FROM inputs WHERE session_id = :session_id AND waits;

-- name: list_waiting
-- The inputs of a session that wait, in the order of acceptance.
SELECT id, event_id, turn_id, behavior, body, created_at FROM inputs
WHERE session_id = :session_id AND waits ORDER BY id LIMIT :limit;

-- name: list_steering
-- The inputs of a session that wait to join the turn that runs, in the order of acceptance.
SELECT id, event_id, turn_id, behavior, body, created_at FROM inputs
WHERE session_id = :session_id AND waits AND behavior = 'steer' ORDER BY id;

-- name: follow_up
-- Inputs that waited to join a turn that has ended become turns of their own.
UPDATE inputs SET behavior = 'follow_up' WHERE session_id = :session_id AND waits AND behavior = 'steer';

-- name: take_input
-- An input stands in the log from now on.
UPDATE inputs SET waits = false, taken_sequence = :sequence, turn_id = :turn_id, body = '' WHERE id = :id;

-- name: withdraw_input
-- An input does not wait any more, and was not taken.
UPDATE inputs SET waits = false, body = '' WHERE id = :id;

-- name: find_input
-- An input that waits or has waited, by the id it waits under.
SELECT id, event_id, turn_id, behavior, body, created_at, waits, taken_sequence FROM inputs
WHERE session_id = :session_id AND event_id = :event_id;

-- name: made_input
-- The input that an idempotency key has made.
SELECT id, event_id, turn_id, behavior, body, created_at, waits, taken_sequence FROM inputs WHERE id = :id;

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
-- Events between two places of a log, oldest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records::boolean OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden',
        'event_deleted', 'session_updated'))
    AND hidden <= :most_hidden
    AND (:types::text[] IS NULL OR type = ANY(:types))
ORDER BY sequence LIMIT :limit;

-- name: list_events_desc
-- Events between two places of a log, newest first, of some types or all.
SELECT id, sequence, turn_id, type, created_at, hidden, body FROM events
WHERE session_id = :session_id AND sequence > :after AND sequence < :before
    AND (:records::boolean OR type NOT IN ('turn_started', 'turn_ended', 'event_hidden', 'event_unhidden',
        'event_deleted', 'session_updated'))
    AND hidden <= :most_hidden
    AND (:types::text[] IS NULL OR type = ANY(:types))
ORDER BY sequence DESC LIMIT :limit;

-- name: purge_agent_later
-- Remember that an agent's sessions are to be removed.
INSERT INTO purges (agent_id) VALUES (:agent_id);

-- name: purge_session_later
-- Remember that a session's events and turns are to be removed.
INSERT INTO purges (session_id) VALUES (:session_id);

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
    s.created_at, s.updated_at
FROM sessions s JOIN agents a ON a.id = s.agent_id WHERE s.id = :made;

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
    s.created_at, s.updated_at
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
    s.created_at, s.updated_at,
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
    s.created_at, s.updated_at,
    a.id, a.tenant_id, a.key, a.enabled, a.version, a.document, a.created_at, a.updated_at,
    t.id, t.turn_id, t.fence, t.usage, t.interrupted_at, t.takes,
    s.last_sequence = t.input_sequence + 1 AND EXISTS (
        SELECT 1 FROM inputs i WHERE i.session_id = s.id AND i.taken_sequence = t.input_sequence)
FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id JOIN agents a ON a.id = s.agent_id
WHERE t.running AND t.outstanding IS NULL AND t.lease_until <= :by
ORDER BY s.id FOR UPDATE OF s, t SKIP LOCKED;

-- name: any_expired_turn
-- Whether the lease of a running turn has run out.
SELECT 1 FROM turns t JOIN sessions s ON s.id = t.session_id AND s.running_turn = t.turn_id
WHERE t.running AND t.outstanding IS NULL AND t.lease_until <= :now LIMIT 1;

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
FROM unnest(:e_tenants::bigint[], :e_sessions::bigint[], :e_sequences::bigint[], :e_ids::text[], :e_turns::text[],
    :e_types::text[], :e_times::bigint[], :e_bodies::bytea[])
    AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body);

-- name: append_events
-- Append events to the logs of running turns, move the heads, and end the turns that have a reason to stop.
-- Says of each session whether inputs wait (1: one to steer the turn).
WITH appended AS (
    INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
    SELECT e.tenant_id, e.session_id, e.sequence, e.id, e.turn_id, e.type, 0, e.created_at, e.body
    FROM unnest(:e_tenants::bigint[], :e_sessions::bigint[], :e_sequences::bigint[], :e_ids::text[], :e_turns::text[],
        :e_types::text[], :e_times::bigint[], :e_bodies::bytea[])
        AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body)
), advanced AS (
    UPDATE turns t SET usage = w.usage, running = w.stop_reason IS NULL, stop_reason = w.stop_reason, error = w.error,
        ended_at = w.ended_at
    FROM unnest(:turns::bigint[], :turn_usages::bytea[], :stop_reasons::text[], :errors::bytea[], :ends::bigint[])
        AS w (id, usage, stop_reason, error, ended_at)
    WHERE t.id = w.id
)
UPDATE sessions s SET last_sequence = w.head, last_event_id = w.last_event_id, usage = w.usage,
    context_usage = coalesce(w.context_usage, s.context_usage), updated_at = w.updated_at,
    running_turn = CASE WHEN w.stop_reason IS NULL THEN s.running_turn END, stop_reason = w.stop_reason
FROM unnest(:sessions::bigint[], :heads::bigint[], :last_event_ids::text[], :usages::bytea[], :contexts::bytea[],
    :times::bigint[], :stop_reasons::text[])
    AS w (id, head, last_event_id, usage, context_usage, updated_at, stop_reason)
WHERE s.id = w.id
RETURNING s.id, (SELECT max((i.behavior = 'steer')::integer) FROM inputs i WHERE i.session_id = s.id AND i.waits);

-- name: open_turns
-- Append inputs and their `turn_started` to logs, and start and claim their turns.
WITH appended AS (
    INSERT INTO events (tenant_id, session_id, sequence, id, turn_id, type, hidden, created_at, body)
    SELECT e.tenant_id, e.session_id, e.sequence, e.id, e.turn_id, e.type, 0, e.created_at, e.body
    FROM unnest(:e_tenants::bigint[], :e_sessions::bigint[], :e_sequences::bigint[], :e_ids::text[], :e_turns::text[],
        :e_types::text[], :e_times::bigint[], :e_bodies::bytea[])
        AS e (tenant_id, session_id, sequence, id, turn_id, type, created_at, body)
), started AS (
    UPDATE sessions s SET running_turn = w.turn_id, stop_reason = NULL, last_sequence = w.input_sequence + 1,
        last_event_id = w.input_event_id, updated_at = w.created_at
    FROM unnest(:sessions::bigint[], :turn_ids::text[], :sequences::bigint[], :event_ids::text[], :times::bigint[])
        AS w (id, turn_id, input_sequence, input_event_id, created_at)
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

-- name: purge_sessions
-- Remove some sessions' rows of an agent, and remember them.
WITH gone AS (
    DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE agent_id = :agent_id ORDER BY id LIMIT :slice)
    RETURNING id
)
INSERT INTO purges (session_id) SELECT id FROM gone;
