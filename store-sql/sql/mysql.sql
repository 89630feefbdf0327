CREATE TABLE IF NOT EXISTS `cache_entries` (
    namespace  VARBINARY(64)  NOT NULL,
    id         VARBINARY(255) NOT NULL,
    full_key   MEDIUMBLOB     NULL,
    value      LONGBLOB       NULL,
    write_id   BIGINT         NOT NULL,
    written_at BIGINT         NOT NULL,
    expires_at BIGINT         NULL,
    PRIMARY KEY (namespace, id),
    KEY (expires_at)
) ENGINE = InnoDB;
