//! How entries are written and refused.

use cache_core::{Codec, ErrorKind, Life, Result, Write};
use redis::{Cmd, Value, cmd};

use crate::{
    call::{Call, Known},
    error,
    scripts::{self, Script},
    store::Inner,
};

impl<V, C: Codec<V>> Inner<V, C> {
    /// What is known of the server, for the records to be written; `None` where there are none.
    async fn known(&self, call: &Call<'_>, writes: &[Write<V>]) -> Result<Option<Known>> {
        match writes.first() {
            Some(first) if !self.layout.is_plain() => call.known(self.link_of(&first.key)).await.map(Some),
            _ => Ok(None),
        }
    }

    /// For how long Redis is to keep what lives like that. A plain value cannot say that it has turned stale, and goes then.
    fn ttl_millis(&self, life: Life) -> Option<u64> {
        match life.stale {
            Some(stale) if self.layout.is_plain() => Some(stale.saturating_sub(life.created)),
            _ => life.ttl_millis(),
        }
    }

    /// The command that installs these bytes, by `script` if it depends on the ticket.
    fn install(
        &self,
        script: &Script,
        write: &Write<V>,
        bytes: &[u8],
        life: Life,
        known: Option<Known>,
    ) -> (usize, Cmd) {
        let key = self.namespace.key(&write.key);
        let mut install = if let (Some(version), Some(known)) = (write.ticket.version(), known) {
            let mut run = script.run(&key);
            run.arg(version.to_le_bytes().as_slice()).arg(known.oldest);
            run
        } else {
            let mut set = cmd("SET");
            set.arg(key);
            set
        };
        install.arg(bytes);
        if let Some(millis) = self.ttl_millis(life) {
            install.arg("PX").arg(millis);
        }
        (self.link_of(&write.key), install)
    }

    pub(crate) async fn fill(&self, writes: &[Write<V>]) -> Result<Vec<Result<bool>>> {
        let call = self.connection.shared().call();
        let known = self.known(&call, writes).await?;
        let now = self.now();
        let server_now = known.map_or(0, |known| known.earliest_micros(now));
        let mut results: Vec<Result<bool>> = writes.iter().map(|_| Ok(false)).collect();
        let (mut places, mut commands) = (Vec::new(), Vec::new());
        for (at, write) in writes.iter().enumerate() {
            let Some(life) = Life::of_fill(&write.entry, now, server_now) else { continue };
            // The id stays the ticket's: a fill voids no ticket of another.
            match self.layout.seal(&write.entry, life, write.ticket.version()) {
                Ok(Some(bytes)) => {
                    places.push(at);
                    commands.push(self.install(&scripts::FILL, write, &bytes, life, known));
                }
                Ok(None) => {}
                Err(error) => results[at] = Err(error),
            }
        }
        for (at, reply) in places.into_iter().zip(call.each(Some(&scripts::FILL), known, commands).await) {
            results[at] = reply.and_then(|reply| match reply {
                Value::Int(filled) => Ok(filled == 1),
                Value::Okay => Ok(true),
                _ => Err(error::unexpected()),
            });
        }
        Ok(results)
    }

    pub(crate) async fn set(&self, writes: &[Write<V>]) -> Result<Vec<Result<()>>> {
        let call = self.connection.shared().call();
        let known = self.known(&call, writes).await?;
        let now = self.now();
        let server_now = known.map_or(0, |known| known.earliest_micros(now));
        let mut refused = Vec::with_capacity(writes.len());
        let mut commands = Vec::with_capacity(writes.len());
        for write in writes {
            let sealed = Life::of_set(&write.entry, now, server_now)
                .map_or(Ok(None), |life| Ok(self.layout.seal(&write.entry, life, None)?.map(|bytes| (bytes, life))));
            // What cannot be written must not leave the older entry there.
            let (command, error) = match sealed {
                Ok(Some((bytes, life))) => (self.install(&scripts::SET, write, &bytes, life, known), None),
                Ok(None) => (self.unlink(&write.key), None),
                Err(error) => (self.unlink(&write.key), Some(error)),
            };
            commands.push(command);
            refused.push(error);
        }
        let versioned = writes.iter().any(|write| write.ticket.version().is_some());
        let replies = call.each(versioned.then_some(&scripts::SET), known, commands).await;
        let mut results: Vec<Result<()>> = replies
            .into_iter()
            .zip(refused)
            .map(|(reply, refused)| refused.map_or_else(|| reply.map(drop), Err))
            .collect();
        self.remove_refused(&call, writes, &mut results).await;
        Ok(results)
    }

    /// Removes the older entries of what Redis had no room for; a removal it takes even then.
    async fn remove_refused(&self, call: &Call<'_>, writes: &[Write<V>], results: &mut [Result<()>]) {
        let full = |result: &Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::Full);
        let places: Vec<usize> = (0..results.len()).filter(|&at| full(&results[at])).collect();
        let unlinks = places.iter().map(|&at| self.unlink(&writes[at].key)).collect();
        for (at, removed) in places.iter().zip(call.each(None, None, unlinks).await) {
            if let Err(error) = &results[*at] {
                results[*at] = Err(error::full(error.clone(), removed.is_ok()));
            }
        }
    }
}
