ALTER TABLE sessions ADD COLUMN origin BLOB;

CREATE INDEX sessions_idle ON sessions (updated_at + tti_minutes * 60000000)
WHERE tti_minutes > 0 AND (running_turn IS NULL OR stop_reason = 'requires_action');

CREATE TABLE copies (
    session_id INTEGER PRIMARY KEY,
    touched_at INTEGER NOT NULL
);
