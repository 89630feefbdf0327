CREATE OR REPLACE FUNCTION "cache_entries_announce"() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now     BIGINT := floor(extract(epoch FROM statement_timestamp()) * 1000);
    size    BIGINT;
    payload TEXT := '*';
BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
        -- Readers do not see markers and expired rows. The deletion of a marker is a `del` during a load.
        SELECT sum(octet_length(namespace) + 2 * octet_length(coalesce(full_key, id)) + 2) INTO size
            FROM changed WHERE TG_OP = 'DELETE' OR value IS NOT NULL AND (expires_at IS NULL OR expires_at > now);
        IF size IS NULL THEN
            RETURN NULL;
        ELSIF size <= 8000 THEN
            SELECT string_agg(namespace || ':' || encode(coalesce(full_key, id), 'hex'), ' ') INTO payload
                FROM changed WHERE TG_OP = 'DELETE' OR value IS NOT NULL AND (expires_at IS NULL OR expires_at > now);
        ELSE
            SELECT string_agg(DISTINCT namespace || ':*', ' ') INTO payload
                FROM changed WHERE TG_OP = 'DELETE' OR value IS NOT NULL AND (expires_at IS NULL OR expires_at > now);
        END IF;
    END IF;
    -- The payload of a notification is limited.
    PERFORM pg_notify(TG_TABLE_NAME, CASE WHEN octet_length(payload) < 8000 THEN payload ELSE '*' END);
    RETURN NULL;
END $$;
CREATE TRIGGER announce_insert AFTER INSERT ON "cache_entries"
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION "cache_entries_announce"();
CREATE TRIGGER announce_update_old AFTER UPDATE ON "cache_entries"
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION "cache_entries_announce"();
CREATE TRIGGER announce_update_new AFTER UPDATE ON "cache_entries"
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION "cache_entries_announce"();
CREATE TRIGGER announce_delete AFTER DELETE ON "cache_entries"
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION "cache_entries_announce"();
CREATE TRIGGER announce_truncate AFTER TRUNCATE ON "cache_entries"
    FOR EACH STATEMENT EXECUTE FUNCTION "cache_entries_announce"();
ALTER TABLE "cache_entries"
    ENABLE ALWAYS TRIGGER announce_insert,
    ENABLE ALWAYS TRIGGER announce_update_old,
    ENABLE ALWAYS TRIGGER announce_update_new,
    ENABLE ALWAYS TRIGGER announce_delete,
    ENABLE ALWAYS TRIGGER announce_truncate;
