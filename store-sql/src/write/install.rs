//! The transaction that writes keys.

use std::collections::HashMap;

use crate::{
    database::{Mode, Session, Work},
    dialect::key_locks::KeyLocks,
    table::{
        identity::Identity,
        rows::{MAX_IDS, NewRow, Rows, signed},
    },
};

/// A record to be written.
pub(super) struct Put {
    pub(super) record: Vec<u8>,
    /// The time at which it is written, by the database's clock, in Unix milliseconds.
    pub(super) written: u64,
    /// The life, in milliseconds; `None` if it does not expire.
    pub(super) millis: Option<u64>,
    pub(super) write_id: u64,
}

/// The write of one key.
pub(super) struct Plan {
    pub(super) identity: Identity,
    /// The write id that the row must still have.
    pub(super) ticket: Option<u64>,
    /// `None` to remove the row.
    pub(super) put: Option<Put>,
}

impl Plan {
    fn row<'a>(&'a self, put: &'a Put) -> NewRow<'a> {
        let Put { record, written, millis, write_id } = put;
        let (identity, value) = (&self.identity, Some(&record[..]));
        NewRow { identity, value, write_id: *write_id, written: Some(*written), millis: *millis }
    }
}

/// The effect of a write whose ticket is void.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnVoidTicket {
    /// The current row stays, as for a fill.
    Keep,
    /// The current row is removed, as for a set.
    Remove,
}

/// Writes keys. Each key occurs once, and they are sorted by id, so that all transactions lock in
/// the same order.
pub(super) struct Install<'a> {
    pub(super) rows: &'a Rows,
    pub(super) plans: &'a [Plan],
    pub(super) on_void_ticket: OnVoidTicket,
}

impl Work for Install<'_> {
    /// For each key, `true` if it was written.
    type Output = Vec<bool>;

    fn mode(&self) -> Mode {
        match self.plans {
            // It is harmless if it takes effect late: once another process has written the key, its
            // ticket is void.
            [plan] if !self.removes() && plan.ticket.is_some() => Mode::Single,
            _ => Mode::Transaction,
        }
    }

    fn locks(&self) -> KeyLocks {
        let mut locks = self.rows.key_locks();
        for Plan { identity, ticket, put } in self.plans {
            match (ticket, put) {
                (None, Some(_)) => locks.insert(&identity.id),
                // A write with a ticket changes an existing row, and waits for the lock of that
                // row.
                _ if self.removes() => locks.remove(&identity.id),
                _ => {}
            }
        }
        locks
    }

    async fn run(&self, session: &mut Session) -> sqlx::Result<Vec<bool>> {
        if let [plan @ Plan { ticket: Some(ticket), put: Some(put), .. }] = self.plans {
            let installed = session.change(&self.rows.update(&plan.row(put), *ticket)).await? > 0;
            if self.removes() && !installed {
                session.change(&self.rows.delete(&[&plan.identity.id])).await?;
            }
            return Ok(vec![installed]);
        }
        let current = self.lock(session).await?;
        let is_current =
            |plan: &Plan| plan.ticket.is_none_or(|ticket| current.get(&plan.identity.id[..]) == Some(&signed(ticket)));
        let installed: Vec<bool> = self.plans.iter().map(|plan| plan.put.is_some() && is_current(plan)).collect();
        let mut new_rows = Vec::with_capacity(self.plans.len());
        let mut removed = Vec::new();
        for (plan, installed) in self.plans.iter().zip(&installed) {
            match &plan.put {
                Some(put) if *installed => new_rows.push(plan.row(put)),
                _ => removed.push(&plan.identity.id[..]),
            }
        }
        for insert in self.rows.insert(&new_rows, self.rows.dialect.replace_tail()) {
            session.change(&insert).await?;
        }
        if self.removes() {
            for some in removed.chunks(MAX_IDS) {
                session.change(&self.rows.delete(some)).await?;
            }
        }
        Ok(installed)
    }
}

impl Install<'_> {
    fn removes(&self) -> bool {
        self.on_void_ticket == OnVoidTicket::Remove
    }

    /// Locks the live rows, and returns their write ids.
    async fn lock(&self, session: &mut Session) -> sqlx::Result<HashMap<Vec<u8>, i64>> {
        let mut current = HashMap::new();
        if self.plans.iter().all(|plan| plan.ticket.is_none()) {
            return Ok(current);
        }
        for some in self.plans.chunks(MAX_IDS) {
            let ids: Vec<&[u8]> = some.iter().map(|plan| &plan.identity.id[..]).collect();
            let found = session.rows(&self.rows.lock_ids(&ids)).await?;
            current.extend(found.into_iter().filter_map(|row| Some((row.id, row.number?))));
        }
        Ok(current)
    }
}
