ALTER TABLE turns ADD COLUMN interrupted_at INTEGER;
