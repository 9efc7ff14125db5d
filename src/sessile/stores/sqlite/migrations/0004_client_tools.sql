-- What a parked turn waits for, and how many starts in a row have taken a turn up.

ALTER TABLE turns ADD COLUMN outstanding TEXT;

ALTER TABLE turns ADD COLUMN takes INTEGER NOT NULL DEFAULT 0;
