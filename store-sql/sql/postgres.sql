CREATE TABLE "cache_entries" (
    namespace  TEXT COLLATE "C" NOT NULL,
    id         BYTEA            NOT NULL,
    full_key   BYTEA            NULL,
    value      BYTEA            NULL,
    write_id   BIGINT           NOT NULL,
    written_at BIGINT           NOT NULL,
    expires_at BIGINT           NULL,
    PRIMARY KEY (namespace, id)
);
CREATE INDEX ON "cache_entries" (expires_at);
