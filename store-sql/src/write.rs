//! How entries are written, refused and removed.

use std::collections::{BTreeMap, HashMap};

use cache_core::{
    Codec, Error, ErrorKind, Key, Result, Write,
    backend::{Binding, Life, write_id},
};

use crate::{
    call::{Mode, Work},
    clock::Now,
    identity::Identity,
    key_locks::KeyLocks,
    pool::Session,
    rows::{IDS, NewRow, Rows, signed},
    store::Inner,
};

/// A record on its way into the table.
struct Put {
    record: Vec<u8>,
    written: u64,
    millis: Option<u64>,
    write_id: u64,
}

/// What is to become of one key.
struct Plan {
    identity: Identity,
    /// The write id that must still be there.
    ticket: Option<u64>,
    /// `None` to remove what is there.
    put: Option<Put>,
}

impl Plan {
    fn row<'a>(&'a self, put: &'a Put) -> NewRow<'a> {
        let Put { record, written, millis, write_id } = put;
        let (identity, value) = (&self.identity, Some(&record[..]));
        NewRow { identity, value, write_id: *write_id, written: Some(*written), millis: *millis }
    }
}

/// Writes keys, each of which comes once and in the order of their ids, so that transactions lock in one order.
struct Install<'a> {
    rows: &'a Rows,
    plans: &'a [Plan],
    /// Whether a plan whose ticket is void removes what is there (a set), or leaves it (a fill).
    voiding: bool,
}

impl Work for Install<'_> {
    /// Whether each was installed.
    type Output = Vec<bool>;

    fn mode(&self) -> Mode {
        match self.plans {
            // It is harmless if it takes effect late: once another has written the key, its ticket is void.
            [plan] if !self.voiding && plan.ticket.is_some() => Mode::Single,
            _ => Mode::Transaction,
        }
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        for Plan { identity, ticket, put } in self.plans {
            match (ticket, put) {
                (None, Some(_)) => locks.insert(&identity.id),
                // What a ticket lets write is there, and its row is waited for.
                _ if self.voiding => locks.remove(&identity.id),
                _ => {}
            }
        }
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Vec<bool>> {
        if let [plan @ Plan { ticket: Some(ticket), put: Some(put), .. }] = self.plans {
            let installed = session.change(&self.rows.update(&plan.row(put), *ticket)).await? > 0;
            if self.voiding && !installed {
                session.change(&self.rows.delete(&[&plan.identity.id])).await?;
            }
            return Ok(vec![installed]);
        }
        let current = self.lock(session).await?;
        let is_current =
            |plan: &Plan| plan.ticket.is_none_or(|ticket| current.get(&plan.identity.id[..]) == Some(&signed(ticket)));
        let installed: Vec<bool> = self.plans.iter().map(|plan| plan.put.is_some() && is_current(plan)).collect();
        let mut news = Vec::with_capacity(self.plans.len());
        let mut gone = Vec::new();
        for (plan, installed) in self.plans.iter().zip(&installed) {
            match &plan.put {
                Some(put) if *installed => news.push(plan.row(put)),
                _ => gone.push(&plan.identity.id[..]),
            }
        }
        for insert in self.rows.insert(&news, self.rows.dialect.replacing()) {
            session.change(&insert).await?;
        }
        if self.voiding {
            for some in gone.chunks(IDS) {
                session.change(&self.rows.delete(some)).await?;
            }
        }
        Ok(installed)
    }
}

impl Install<'_> {
    /// Locks the rows that are there, and gives their write ids.
    async fn lock(&self, session: &mut Session) -> sqlx::Result<HashMap<Vec<u8>, i64>> {
        let mut current = HashMap::new();
        if self.plans.iter().all(|plan| plan.ticket.is_none()) {
            return Ok(current);
        }
        for some in self.plans.chunks(IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|plan| &plan.identity.id[..]).collect();
            let found = session.rows(&self.rows.lock_ids(&ids)).await?;
            current.extend(found.into_iter().filter_map(|row| Some((row.id, row.number?))));
        }
        Ok(current)
    }
}

/// Removes keys.
struct Remove<'a> {
    rows: &'a Rows,
    identities: &'a [Identity],
}

impl Work for Remove<'_> {
    type Output = ();

    fn mode(&self) -> Mode {
        Mode::Transaction
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        self.identities.iter().for_each(|identity| locks.remove(&identity.id));
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<()> {
        let mut ids: Vec<&[u8]> = self.identities.iter().map(|identity| &identity.id[..]).collect();
        ids.sort_unstable();
        for some in ids.chunks(IDS) {
            session.change(&self.rows.delete(some)).await?;
        }
        Ok(())
    }
}

impl<V, C: Codec<V>> Inner<V, C> {
    /// The entry as a record whose life counts from zero, which is the row's `written_at`.
    fn seal(&self, write: &Write<V>, life: Life, now: Now, write_id: u64) -> Result<Put> {
        // A database that is restored from a backup goes back as a whole, so one epoch is enough.
        let binding = Binding { key: write.key.as_bytes(), epoch: 0 };
        let record = match write.entry.value() {
            Some(value) => self.envelope.seal(binding, value, life, write_id)?,
            None => self.envelope.seal_absent(binding, life, write_id),
        };
        Ok(Put { record, written: now.database / 1000, millis: life.ttl_millis(), write_id })
    }

    pub(crate) async fn fill(&self, writes: &[Write<V>]) -> Vec<Result<bool>> {
        let now = match self.now(writes).await {
            Ok(now) => now,
            Err(error) => return vec![Err(error); writes.len()],
        };
        let plan = |write: &Write<V>| {
            let Some(life) = Life::of_fill(&write.entry, now.here, now.database % 1000) else { return Ok(None) };
            let ticket = write.ticket.version();
            // The id stays the ticket's: a fill voids no ticket of another.
            let put = self.seal(write, life, now, ticket.unwrap_or_else(write_id::next))?;
            Ok(Some(Plan { identity: Identity::of(&write.key), ticket, put: Some(put) }))
        };
        let plans = writes.iter().map(plan).collect();
        self.install(plans, false).await
    }

    pub(crate) async fn set(&self, writes: &[Write<V>]) -> Vec<Result<()>> {
        let now = match self.now(writes).await {
            Ok(now) => now,
            Err(error) => return vec![Err(error); writes.len()],
        };
        let mut errors = Vec::with_capacity(writes.len());
        let mut plans = Vec::with_capacity(writes.len());
        for write in writes {
            let life = Life::of_set(&write.entry, now.here, now.database % 1000);
            let put = life.map(|life| self.seal(write, life, now, write_id::next())).transpose();
            // What cannot be written must not leave the older entry there.
            let (put, error) = put.map_or_else(|error| (None, Some(error)), |put| (put, None));
            plans.push(Ok(Some(Plan { identity: Identity::of(&write.key), ticket: write.ticket.version(), put })));
            errors.push(error);
        }
        let done = self.install(plans, true).await;
        let mut results: Vec<Result<()>> =
            done.into_iter().zip(errors).map(|(done, error)| error.map_or(done.map(drop), Err)).collect();
        self.remove_refused(writes, &mut results).await;
        results
    }

    /// Removes the older entries of what the database had no room for; a removal it mostly takes even then.
    async fn remove_refused(&self, writes: &[Write<V>], results: &mut [Result<()>]) {
        let full = |result: &Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::Full);
        let places: Vec<usize> = (0..results.len()).filter(|&at| full(&results[at])).collect();
        if places.is_empty() {
            return;
        }
        let identities: Vec<Identity> = places.iter().map(|&at| Identity::of(&writes[at].key)).collect();
        let removed = self.run(&Remove { rows: &self.rows, identities: &identities }).await.is_ok();
        let outcome = if removed { "the older entry was removed" } else { "the older entry could not be removed" };
        for at in places {
            if let Err(error) = &results[at] {
                results[at] = Err(Error::with_source(ErrorKind::Full, format!("{error}; {outcome}"), error.clone()));
            }
        }
    }

    /// Carries out the plans, one result each. A key that comes again waits for a transaction of its own, so that a batch
    /// does what its parts would do one after the other.
    async fn install(&self, plans: Vec<Result<Option<Plan>>>, voiding: bool) -> Vec<Result<bool>> {
        let mut results: Vec<Result<bool>> = Vec::with_capacity(plans.len());
        let mut group = BTreeMap::<Vec<u8>, (usize, Plan)>::new();
        for (at, plan) in plans.into_iter().enumerate() {
            let plan = match plan {
                Ok(Some(plan)) => plan,
                Ok(None) => {
                    results.push(Ok(false));
                    continue;
                }
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            results.push(Ok(false));
            if group.contains_key(&plan.identity.id) {
                self.install_group(std::mem::take(&mut group), voiding, &mut results).await;
            }
            group.insert(plan.identity.id.clone(), (at, plan));
        }
        self.install_group(group, voiding, &mut results).await;
        results
    }

    async fn install_group(
        &self,
        group: BTreeMap<Vec<u8>, (usize, Plan)>,
        voiding: bool,
        results: &mut [Result<bool>],
    ) {
        if group.is_empty() {
            return;
        }
        let (places, plans): (Vec<usize>, Vec<Plan>) = group.into_values().unzip();
        match self.run(&Install { rows: &self.rows, plans: &plans, voiding }).await {
            Ok(installed) => {
                for (at, installed) in places.into_iter().zip(installed) {
                    results[at] = Ok(installed);
                }
            }
            Err(error) => places.into_iter().for_each(|at| results[at] = Err(error.clone())),
        }
    }
}

impl<V, C> Inner<V, C> {
    pub(crate) async fn remove(&self, keys: &[Key]) -> Result<()> {
        let identities: Vec<Identity> = keys.iter().map(Identity::of).collect();
        self.run(&Remove { rows: &self.rows, identities: &identities }).await
    }
}
