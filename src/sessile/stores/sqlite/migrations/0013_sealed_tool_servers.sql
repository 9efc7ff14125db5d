-- What tool servers are sent went in here as it was. It goes into `secrets` now, encrypted, and has to be given again.
ALTER TABLE tool_servers DROP COLUMN secret;
