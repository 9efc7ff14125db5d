-- What no verb leaves behind, in words. Each of these runs on every store as it stands.

-- name: stray_events
-- Events behind the end of their log.
SELECT 'session ' || s.key || ': event ' || e.sequence || ' is behind the end of the log, ' || s.last_sequence
FROM sessions s JOIN events e ON e.session_id = s.id AND e.sequence > s.last_sequence
ORDER BY s.id, e.sequence LIMIT 100;

-- name: stray_turns
-- Sessions that name a turn which does not run.
SELECT 'session ' || s.key || ': its turn ' || s.running_turn || ' does not run' FROM sessions s
WHERE s.running_turn IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.session_id = s.id AND t.turn_id = s.running_turn AND t.running)
ORDER BY s.id LIMIT 100;

-- name: stray_sessions
-- Sessions whose agent is not there, although nobody is removing them.
SELECT 'session ' || s.key || ': its agent is not there' FROM sessions s
WHERE NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = s.agent_id)
    AND NOT EXISTS (SELECT 1 FROM purges p WHERE p.agent_id = s.agent_id)
ORDER BY s.id LIMIT 100;

-- name: stray_rows
-- Rows of sessions that are not there, although nobody is removing or filling them; one line for each kind of row.
SELECT r.kind || ' of a session that is not there, number ' || r.session_id
FROM (SELECT 'events' AS kind, session_id FROM events UNION SELECT 'turns', session_id FROM turns
        UNION SELECT 'inputs', session_id FROM inputs UNION SELECT 'artifacts', session_id FROM artifacts) r
WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE s.id = r.session_id)
    AND NOT EXISTS (SELECT 1 FROM purges p WHERE p.session_id = r.session_id)
    AND NOT EXISTS (SELECT 1 FROM copies c WHERE c.session_id = r.session_id)
ORDER BY r.session_id, r.kind LIMIT 100;

-- name: stray_agents
-- Agents and sessions whose tenant is not there.
SELECT 'agent ' || a.key || ': its tenant is not there' FROM agents a
WHERE NOT EXISTS (SELECT 1 FROM tenants t WHERE t.id = a.tenant_id)
UNION ALL
SELECT 'session ' || s.key || ': its tenant is not that of its agent' FROM sessions s JOIN agents a ON a.id = s.agent_id
WHERE s.tenant_id <> a.tenant_id
ORDER BY 1 LIMIT 100;
