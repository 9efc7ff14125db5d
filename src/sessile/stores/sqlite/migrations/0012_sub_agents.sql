-- Sessions that tool calls create, and the turns that tool calls start.
ALTER TABLE sessions ADD COLUMN creator BLOB;

ALTER TABLE turns ADD COLUMN parent_turn_id TEXT;

ALTER TABLE turns ADD COLUMN parent_event_id TEXT;

CREATE INDEX turns_of_calls ON turns (parent_turn_id, parent_event_id) WHERE parent_turn_id IS NOT NULL;
