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

ALTER TABLE inputs ADD COLUMN upload BLOB;
