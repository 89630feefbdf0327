//! Whether the server lets its user do what a store does.

use cache_core::{ErrorKind, Key, Result, backend::write_id};
use redis::{Cmd, cmd};

use crate::{error, scripts, store::Inner};

impl<V, C> Inner<V, C> {
    /// Runs every command that this store may need, on a key that nobody uses.
    ///
    /// # Errors
    ///
    /// Of kind `Denied` if one is not permitted; the error names all of them.
    pub(crate) async fn check_permissions(&self) -> Result<()> {
        let key = Key::new(&write_id::next().to_string())?;
        let mut denied = self.denied(&key, self.needed(&key)).await?;
        // To the driver a refused MULTI is a fatal error of the protocol, so these are not asked for as a transaction.
        if self.layout.is_plain() {
            denied.extend(self.denied(&key, vec![("EXEC", cmd("EXEC"))]).await?);
            if denied.last() != Some(&"EXEC") {
                denied.extend(self.denied(&key, vec![("MULTI", cmd("MULTI")), ("EXEC", cmd("EXEC"))]).await?);
            }
        }
        if denied.is_empty() { Ok(()) } else { Err(error::denied(&denied, self.namespace.name())) }
    }

    fn needed(&self, key: &Key) -> Vec<(&'static str, Cmd)> {
        let name = self.namespace.key(key);
        let on = |command: &'static str, arguments: &[&str]| {
            let mut asked = cmd(command);
            asked.arg(&name).arg(arguments);
            (command, asked)
        };
        let mut scan = cmd("SCAN");
        scan.arg(0).arg("MATCH").arg(&name).arg("COUNT").arg(1);
        let mut needed = vec![
            on("GET", &[]),
            on("MGET", &[]),
            // Sets nothing where there is nothing.
            on("SET", &["", "XX", "PX", "1"]),
            on("UNLINK", &[]),
            ("SCAN", scan),
            ("PING", cmd("PING")),
        ];
        if self.layout.is_plain() {
            needed.push(on("PTTL", &[]));
        } else {
            let mut release = scripts::RELEASE.run(&name);
            release.arg("");
            needed.extend([
                on("GETRANGE", &["0", "0"]),
                on("PEXPIRE", &["1"]),
                ("SCRIPT LOAD", scripts::RELEASE.load()),
                ("EVALSHA", release),
            ]);
        }
        needed
    }

    /// Those commands that are not permitted.
    async fn denied(&self, key: &Key, commands: Vec<(&'static str, Cmd)>) -> Result<Vec<&'static str>> {
        let link = self.link_of(key);
        let (names, commands): (Vec<_>, Vec<_>) = commands.into_iter().map(|(name, cmd)| (name, (link, cmd))).unzip();
        let replies = self.connection.shared().call().each(None, None, commands).await;
        let mut denied = Vec::new();
        for (name, reply) in names.into_iter().zip(replies) {
            match reply.map_err(|error| (error.kind(), error)) {
                Err((ErrorKind::Denied, _)) => denied.push(name),
                // A replica and a full server check the permission first.
                Ok(_) | Err((ErrorKind::ReadOnly | ErrorKind::Full, _)) => {}
                // There is no transaction to execute.
                Err((ErrorKind::Backend, _)) if name == "EXEC" => {}
                Err((_, error)) => return Err(error),
            }
        }
        Ok(denied)
    }
}
