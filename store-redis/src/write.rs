//! Fills, sets and deletes entries.

use cache_core::{
    Codec, Error, Key, Moment, Result, Write,
    backend::{Life, refused_for_room, with_removal},
};
use redis::{Cmd, Value};

use crate::{
    connection::{
        call::Call, error::unexpected, publication::Writing, redirection::Redirection, server::ServerSnapshot,
    },
    keyspace::Keyspace,
    record::{
        layout::Layout,
        scripts::{self, WriteScript},
    },
};

pub(crate) async fn fill<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    layout: &Layout<C>,
    writes: Vec<&Write<V>>,
) -> Result<Vec<Result<bool>>> {
    let Some(first) = writes.first() else { return Ok(Vec::new()) };
    let batch = Batch::start(keyspace, call, layout, first).await?;
    let mut results: Vec<Result<bool>> = writes.iter().map(|_| Ok(false)).collect();
    let (mut positions, mut commands) = (Vec::new(), Vec::new());
    let mut removed = vec![false; writes.len()];
    for (at, write) in writes.iter().enumerate() {
        let Some(life) = Life::of_fill(&write.entry, batch.now, batch.server_now) else { continue };
        // The id stays the ticket's: a fill voids no other ticket.
        match batch.install(&scripts::FILL, write, life, write.ticket.version()) {
            Ok(Some(command)) => {
                positions.push(at);
                commands.push(command);
            }
            // The older entry must not stay.
            Ok(None) => {
                removed[at] = true;
                positions.push(at);
                commands.push(keyspace.unlink(&batch.call, &batch.writing, &write.key));
            }
            Err(error) => results[at] = Err(error),
        }
    }
    for (at, reply) in positions.into_iter().zip(batch.send(Some(&scripts::FILL), commands).await) {
        results[at] = reply.and_then(|reply| match reply {
            Value::Int(_) if removed[at] => Ok(false),
            Value::Int(filled) => Ok(filled == 1),
            Value::Okay => Ok(true),
            _ => Err(unexpected()),
        });
    }
    Ok(results)
}

pub(crate) async fn set<V, C: Codec<V>>(
    keyspace: &Keyspace,
    call: Call,
    layout: &Layout<C>,
    writes: Vec<&Write<V>>,
) -> Result<Vec<Result<()>>> {
    let Some(first) = writes.first() else { return Ok(Vec::new()) };
    let batch = Batch::start(keyspace, call.confirmed(), layout, first).await?;
    let mut errors = Vec::with_capacity(writes.len());
    let mut commands = Vec::with_capacity(writes.len());
    for write in &writes {
        let install = Life::of_set(&write.entry, batch.now, batch.server_now)
            .map_or(Ok(None), |life| batch.install(&scripts::SET, write, life, None));
        // If the new entry cannot be written, the older one is removed.
        let (command, error) = match install {
            Ok(Some(command)) => (command, None),
            Ok(None) => (keyspace.unlink(&batch.call, &batch.writing, &write.key), None),
            Err(error) => (keyspace.unlink(&batch.call, &batch.writing, &write.key), Some(error)),
        };
        commands.push(command);
        errors.push(error);
    }
    let has_ticket = writes.iter().any(|write| write.ticket.version().is_some());
    let replies = batch.send(has_ticket.then_some(&scripts::SET), commands).await;
    let mut results: Vec<Result<()>> =
        replies.into_iter().zip(errors).map(|(reply, error)| result(reply, error)).collect();
    batch.remove_refused(&writes, &mut results).await;
    Ok(results)
}

/// Returns the result of a set from the reply, and the error that the value could not be written with.
fn result(reply: Result<Value>, error: Option<Error>) -> Result<()> {
    match error {
        // Otherwise the older entry has been removed.
        Some(error) if Redirection::of(&reply).is_none() => Err(error),
        _ => reply.map(drop),
    }
}

pub(crate) async fn del(keyspace: &Keyspace, call: Call, keys: Vec<&Key>) -> Result<Vec<Result<()>>> {
    let (call, writing) = (call.confirmed(), keyspace.publication.writing());
    let unlinks = keys.into_iter().map(|key| keyspace.unlink(&call, &writing, key)).collect();
    let replies = call.send_all(&writing.scripts(None), None, unlinks).await;
    Ok(replies.into_iter().map(|reply| reply.map(drop)).collect())
}

/// The most bytes of the arguments that set a TTL: `PXAT` and a number.
const MAX_TTL_ARGUMENTS: usize = 24;

/// The writes of one call.
struct Batch<'a, C> {
    keyspace: &'a Keyspace,
    layout: &'a Layout<C>,
    call: Call,
    writing: Writing<'a>,
    server: ServerSnapshot,
    now: Moment,
    /// The earliest possible time on the server, in Unix microseconds.
    server_now: u64,
}

impl<'a, C> Batch<'a, C> {
    async fn start<V>(keyspace: &'a Keyspace, call: Call, layout: &'a Layout<C>, first: &Write<V>) -> Result<Self> {
        let server = call.take_snapshot(call.link_of(&first.key)).await?;
        let (writing, now) = (keyspace.publication.writing(), keyspace.now());
        Ok(Self { keyspace, layout, call, writing, server, now, server_now: server.earliest_micros(now) })
    }

    /// Returns the command that writes this entry, by `script` if it depends on the ticket. Returns
    /// `None` if the layout cannot represent the entry.
    fn install<V>(
        &self,
        script: &WriteScript,
        write: &Write<V>,
        life: Life,
        id: Option<u64>,
    ) -> Result<Option<(usize, Cmd)>>
    where
        C: Codec<V>,
    {
        let name = self.keyspace.namespace.key(&write.key);
        let Some(bytes) = self.layout.seal(self.server.validity.binding(&name), &write.entry, life, id)? else {
            return Ok(None);
        };
        let is_plain = self.layout.is_plain();
        let mut install = match write.ticket.version() {
            Some(version) if !is_plain => {
                let mut run = self.writing.run(script, &name);
                run.arg(version.to_le_bytes().as_slice()).arg(self.server.validity.since);
                run
            }
            _ => self.writing.set(&name, bytes.len() + MAX_TTL_ARGUMENTS),
        };
        install.arg(bytes);
        if is_plain {
            // Only the key's TTL tells when a plain value expires. It cannot tell that the value is
            // stale, so the value is removed when it turns stale.
            if let Some(end) = life.stale.or(life.expires) {
                install.arg("PXAT").arg(end);
            }
        } else if let Some(millis) = life.ttl_millis() {
            install.arg("PX").arg(millis);
        }
        Ok(Some((self.call.link_of(&write.key), install)))
    }

    async fn send(&self, script: Option<&WriteScript>, commands: Vec<(usize, Cmd)>) -> Vec<Result<Value>> {
        self.call.send_all(&self.writing.scripts(script), Some(self.server), commands).await
    }

    /// Removes the older entries of the keys whose new entries Redis had no room for. It accepts a
    /// removal even then.
    async fn remove_refused<V>(&self, writes: &[&Write<V>], results: &mut [Result<()>]) {
        let refused = refused_for_room(results);
        if refused.is_empty() {
            return;
        }
        let unlinks =
            refused.iter().map(|&at| self.keyspace.unlink(&self.call, &self.writing, &writes[at].key)).collect();
        let removed = self.call.send_all(&self.writing.scripts(None), None, unlinks).await;
        for (at, removed) in refused.iter().zip(removed) {
            if let Err(error) = &results[*at] {
                results[*at] = Err(with_removal(error, removed.is_ok()));
            }
        }
    }
}
