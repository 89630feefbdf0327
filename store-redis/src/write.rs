//! How entries are written and refused.

use cache_core::{Codec, ErrorKind, Result, Write, backend::Life};
use redis::{Cmd, Value, cmd};

use crate::{
    call::{Call, Known},
    error,
    scripts::{self, Script},
    store::Inner,
};

impl<V, C: Codec<V>> Inner<V, C> {
    /// What is known of the server; `None` where there is nothing to write.
    async fn known(&self, call: &Call<'_>, writes: &[Write<V>]) -> Result<Option<Known>> {
        match writes.first() {
            Some(first) => call.known(self.link_of(&first.key)).await.map(Some),
            None => Ok(None),
        }
    }

    /// The command that installs this entry, by `script` if it depends on the ticket; `None` if this layout cannot say what the
    /// entry says.
    fn install(
        &self,
        script: &Script,
        write: &Write<V>,
        life: Life,
        known: Known,
        id: Option<u64>,
    ) -> Result<Option<(usize, Cmd)>> {
        let name = self.namespace.key(&write.key);
        let Some(bytes) = self.layout.seal(known.validity.binding(&name), &write.entry, life, id)? else {
            return Ok(None);
        };
        let plain = self.layout.is_plain();
        let mut install = match write.ticket.version() {
            Some(version) if !plain => {
                let mut run = script.run(&name);
                run.arg(version.to_le_bytes().as_slice()).arg(known.validity.since);
                run
            }
            _ => {
                let mut set = cmd("SET");
                set.arg(&name);
                set
            }
        };
        install.arg(bytes);
        if plain {
            // Nothing but the key says when the value expires. It cannot say that the value has turned stale, and goes then.
            if let Some(end) = life.stale.or(life.expires) {
                install.arg("PXAT").arg(end);
            }
        } else if let Some(millis) = life.ttl_millis() {
            install.arg("PX").arg(millis);
        }
        Ok(Some((self.link_of(&write.key), install)))
    }

    pub(crate) async fn fill(&self, writes: &[Write<V>]) -> Result<Vec<Result<bool>>> {
        let call = self.connection.shared().call();
        let Some(known) = self.known(&call, writes).await? else { return Ok(Vec::new()) };
        let now = self.now();
        let server_now = known.earliest_micros(now);
        let mut results: Vec<Result<bool>> = writes.iter().map(|_| Ok(false)).collect();
        let (mut places, mut commands) = (Vec::new(), Vec::new());
        let mut removed = vec![false; writes.len()];
        for (at, write) in writes.iter().enumerate() {
            let Some(life) = Life::of_fill(&write.entry, now, server_now) else { continue };
            // The id stays the ticket's: a fill voids no ticket of another.
            match self.install(&scripts::FILL, write, life, known, write.ticket.version()) {
                Ok(Some(command)) => {
                    places.push(at);
                    commands.push(command);
                }
                // The older entry must not stay in its place.
                Ok(None) => {
                    removed[at] = true;
                    places.push(at);
                    commands.push(self.unlink(&write.key));
                }
                Err(error) => results[at] = Err(error),
            }
        }
        for (at, reply) in places.into_iter().zip(call.each(Some(&scripts::FILL), Some(known), commands).await) {
            results[at] = reply.and_then(|reply| match reply {
                Value::Int(_) if removed[at] => Ok(false),
                Value::Int(filled) => Ok(filled == 1),
                Value::Okay => Ok(true),
                _ => Err(error::unexpected()),
            });
        }
        Ok(results)
    }

    pub(crate) async fn set(&self, writes: &[Write<V>]) -> Result<Vec<Result<()>>> {
        let call = self.connection.shared().call();
        let Some(known) = self.known(&call, writes).await? else { return Ok(Vec::new()) };
        let now = self.now();
        let server_now = known.earliest_micros(now);
        let mut refused = Vec::with_capacity(writes.len());
        let mut commands = Vec::with_capacity(writes.len());
        for write in writes {
            let install = Life::of_set(&write.entry, now, server_now)
                .map_or(Ok(None), |life| self.install(&scripts::SET, write, life, known, None));
            // What cannot be written must not leave the older entry there.
            let (command, error) = match install {
                Ok(Some(command)) => (command, None),
                Ok(None) => (self.unlink(&write.key), None),
                Err(error) => (self.unlink(&write.key), Some(error)),
            };
            commands.push(command);
            refused.push(error);
        }
        let versioned = writes.iter().any(|write| write.ticket.version().is_some());
        let replies = call.each(versioned.then_some(&scripts::SET), Some(known), commands).await;
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
