-- Summaries: how agents want them, which a session shows, and where they stand in a log.

ALTER TABLE agents ADD COLUMN compaction TEXT;

UPDATE agents SET compaction = json_extract(CAST(document AS TEXT), '$.compaction');

CREATE INDEX events_summaries ON events (session_id, sequence) WHERE type = 'compaction';
