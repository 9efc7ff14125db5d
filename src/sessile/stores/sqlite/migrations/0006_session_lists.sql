-- Lists of sessions across agents, and filters on metadata that find equal values by an index.

CREATE TABLE session_terms (
    session_id INTEGER NOT NULL,
    term INTEGER NOT NULL,
    tenant_id INTEGER NOT NULL,
    agent_id INTEGER NOT NULL,
    PRIMARY KEY (session_id, term)
) WITHOUT ROWID;

CREATE INDEX session_terms_of_agent ON session_terms (agent_id, term, session_id);

CREATE INDEX session_terms_of_tenant ON session_terms (tenant_id, term, session_id);

CREATE INDEX sessions_newest_of_tenant ON sessions (tenant_id, id);

DROP INDEX sessions_running;

CREATE INDEX sessions_running ON sessions (tenant_id, id, running_turn) WHERE running_turn IS NOT NULL;

INSERT INTO session_terms (session_id, term, tenant_id, agent_id)
SELECT s.id, t.value, s.tenant_id, s.agent_id FROM sessions s, json_each(metadata_terms(s.metadata)) t;
