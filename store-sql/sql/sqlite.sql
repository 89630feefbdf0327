CREATE TABLE IF NOT EXISTS "cache_entries" (
    namespace  TEXT    NOT NULL,
    id         BLOB    NOT NULL,
    full_key   BLOB    NULL,
    value      BLOB    NULL,
    write_id   INTEGER NOT NULL,
    written_at INTEGER NOT NULL,
    expires_at INTEGER NULL,
    PRIMARY KEY (namespace, id)
);
CREATE INDEX IF NOT EXISTS "cache_entries_expires_at" ON "cache_entries" (expires_at);
