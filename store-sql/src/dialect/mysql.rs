//! The SQL of MySQL and MariaDB: only syntax that both support.

use std::{borrow::Cow, time::Duration};

use sqlx::{error::DatabaseError, mysql::MySqlDatabaseError};

use super::{
    Dialect, Which,
    fault::Fault,
    key_locks::KeyLocks,
    statement::{Argument, Statement, Syntax},
};

/// MySQL or MariaDB.
#[derive(Debug)]
pub(crate) struct MySql;

static SYNTAX: Syntax = Syntax {
    // Not UNIX_TIMESTAMP: in a time zone with daylight saving time, one hour of the year would
    // occur twice.
    now: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)",
    least: "LEAST",
    greatest: "GREATEST",
    numbered: false,
    selects_values: false,
};

impl Dialect for MySql {
    fn title(&self) -> &'static str {
        "MySQL"
    }

    fn name(&self) -> &'static str {
        "mysql"
    }

    fn quote(&self, table: &str) -> String {
        format!("`{table}`")
    }

    fn syntax(&self) -> &'static Syntax {
        &SYNTAX
    }

    fn begin(&self, _: &dyn Fn() -> KeyLocks, _: Duration) -> Cow<'static, str> {
        // In the default isolation level, absent keys are locked as gaps, and two writers of
        // adjacent keys deadlock.
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION".into()
    }

    fn replace_tail(&self) -> &'static str {
        // MariaDB does not support the alias that MySQL prefers to VALUES().
        " ON DUPLICATE KEY UPDATE full_key = VALUES(full_key), value = VALUES(value), write_id = VALUES(write_id), \
         written_at = VALUES(written_at), expires_at = VALUES(expires_at)"
    }

    fn lease_tail(&self) -> &'static str {
        // Assignments run in order, and each sees the results of those before, so `expires_at` is
        // assigned last.
        " ON DUPLICATE KEY UPDATE \
         full_key = IF(expires_at IS NULL OR expires_at > {now}, full_key, VALUES(full_key)), \
         write_id = IF(expires_at IS NULL OR expires_at > {now}, write_id, VALUES(write_id)), \
         value = IF(expires_at IS NULL OR expires_at > {now}, value, NULL), \
         expires_at = IF(value IS NOT NULL OR write_id < 0, expires_at, GREATEST(expires_at, VALUES(expires_at)))"
    }

    fn claim_tail(&self) -> &'static str {
        // As above, each assignment sees the results of those before. A write id is used only once,
        // so `write_id = VALUES(write_id)` means that the marker was written.
        " ON DUPLICATE KEY UPDATE \
         full_key = IF(value IS NULL AND (write_id >= 0 OR written_at > {latest}) OR expires_at <= {now}, \
         VALUES(full_key), full_key), \
         value = IF(expires_at <= {now}, NULL, value), \
         write_id = IF(value IS NULL AND (write_id >= 0 OR written_at > {latest}) OR expires_at <= {now}, \
         VALUES(write_id), write_id), \
         written_at = IF(write_id = VALUES(write_id), VALUES(written_at), written_at), \
         expires_at = IF(write_id = VALUES(write_id), VALUES(expires_at), expires_at)"
    }

    fn insert_returns_rows(&self) -> bool {
        false
    }

    fn delete_some<'a>(&self, delete: &mut Statement<'a>, table: &str, which: Which<'a>, limit: usize) {
        delete.push("DELETE FROM ").push(table);
        match which {
            Which::Namespace(namespace) => delete.push(" WHERE namespace = ").bind(Argument::Text(namespace)),
            Which::Expired => delete.push(" WHERE expires_at <= {now} ORDER BY expires_at"),
        };
        delete.push(&format!(" LIMIT {limit}"));
    }

    fn create(&self, table: &str) -> String {
        include_str!("../../sql/mysql.sql").replace("cache_entries", table)
    }

    fn why_no_announcements(&self) -> Option<&'static str> {
        Some(
            "MySQL cannot announce the changes of a table; leave announce_changes() out, and call `invalidate` of the \
             chain for each change that a reader of the binlog finds, or limit the tiers in memory by `Tier::max_ttl`",
        )
    }

    fn find_schema_mismatch(&self, table: &str) -> Option<String> {
        // Without the primary key, a replacement would silently become a second row. With a text
        // column for the id, keys that differ only in case or trailing spaces would be equal.
        Some(format!(
            "SELECT CAST('' AS BINARY), CAST(NULL AS BINARY), CAST(COUNT(*) AS SIGNED) FROM information_schema.columns \
             WHERE table_schema = DATABASE() AND table_name = '{table}' AND column_key = 'PRI' \
             HAVING COUNT(*) <> 2 OR SUM(data_type = 'varbinary' AND character_maximum_length >= \
             CASE column_name WHEN 'namespace' THEN 64 WHEN 'id' THEN 255 END) <> 2"
        ))
    }

    fn classify_database(&self, error: &dyn DatabaseError) -> Fault {
        let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() else { return Fault::Other };
        match error.number() {
            1213 | 1205 | 1020 => Fault::Conflict,
            1053 | 1077 | 1927 | 3169 | 4031 => Fault::Lost,
            1040 | 1129 | 1203 | 1226 => Fault::Unavailable,
            3024 | 1969 | 1317 => Fault::TimedOut,
            1153 | 1021 | 1037 | 1038 | 1041 | 1114 | 3675 => Fault::Full,
            // A file could not be written. The message contains the system's error number; 28 means
            // a full disk.
            1026 | 1030 | 3 if error.message().contains("28") => Fault::Full,
            1290 | 1792 | 1836 => Fault::ReadOnly,
            1044 | 1045 | 1095 | 1130 | 1142 | 1143 | 1227 | 1370 | 1410 | 1698 | 3118 | 3159 | 4151 => Fault::Denied,
            1146 => Fault::NoTable,
            1050 => Fault::TableExists,
            1048 | 1054 | 1136 | 1264 | 1265 | 1364 | 1366 | 1406 => Fault::SchemaMismatch,
            _ => Fault::Other,
        }
    }

    fn describe(&self, error: &dyn DatabaseError) -> String {
        let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() else { return String::new() };
        match error.number() {
            // These messages quote a value.
            1062 | 1264 | 1292 | 1366 | 1367 => format!("MySQL error {}", error.number()),
            number => format!("MySQL error {number}: {}", error.message()),
        }
    }
}
