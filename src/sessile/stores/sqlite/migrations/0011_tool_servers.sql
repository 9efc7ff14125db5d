CREATE TABLE tool_servers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    document BLOB NOT NULL,
    secret BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tool_servers_newest ON tool_servers (tenant_id, id);

CREATE TABLE tools (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    server_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    document BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant_id, key)
);

CREATE INDEX tools_newest ON tools (tenant_id, id);

CREATE UNIQUE INDEX tools_of_server ON tools (server_id, name);
