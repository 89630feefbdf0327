//! Ids of writes. A ticket holds one, and a bit of the id distinguishes a claim from a plain lease.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Key, Ticket};

/// The bit that is set in the id of a claim's marker. A fill keeps the id of its ticket, so a value
/// can have it as well.
const CLAIM: u64 = 1 << 63;

/// Returns an id that no other write has, in this process or another, and that is not the id of a
/// claim. It is a counter, hashed with a random seed of the standard library.
pub fn next() -> u64 {
    static SEED: OnceLock<RandomState> = OnceLock::new();
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    SEED.get_or_init(RandomState::new).hash_one(COUNTER.fetch_add(1, Ordering::Relaxed)) & !CLAIM
}

/// Returns an id for the marker of a claim: one process is loading the value.
pub fn next_claim() -> u64 {
    next() | CLAIM
}

/// Returns `true` if the id is that of a claim, by its top bit. As eight little-endian bytes, the
/// last byte of such an id is 128 or more; as a signed number, it is negative.
pub const fn is_claim(id: u64) -> bool {
    id & CLAIM != 0
}

/// Returns the id of the claim that the ticket belongs to, or `None` if it belongs to none.
pub fn of_claim(ticket: Ticket) -> Option<u64> {
    ticket.version().filter(|&id| is_claim(id))
}

/// Returns the keys and ids of the claims. A plain lease among them is left out.
pub fn of_claims(claims: &[(Key, Ticket)]) -> impl Iterator<Item = (&Key, u64)> {
    claims.iter().filter_map(|(key, ticket)| Some((key, of_claim(*ticket)?)))
}

/// Returns the keys and ids of the leases that are no claims. A lease that was taken while a claim
/// was held has the claim's id.
pub fn of_plain_leases(leases: &[(Key, Ticket)]) -> impl Iterator<Item = (&Key, u64)> {
    let plain = |ticket: &Ticket| ticket.version().filter(|&id| !is_claim(id));
    leases.iter().filter_map(move |(key, ticket)| Some((key, plain(ticket)?)))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<u64> = (0..100_000).map(|_| next()).collect();
        assert_eq!(ids.len(), 100_000);
    }

    #[test]
    fn claims_are_told_by_their_ids() {
        for id in (0..1000).map(|_| next_claim()) {
            assert!(is_claim(id) && id.cast_signed() < 0 && id.to_le_bytes()[7] >= 128, "{id}");
        }
        for id in (0..1000).map(|_| next()) {
            assert!(!is_claim(id) && id.cast_signed() >= 0 && id.to_le_bytes()[7] < 128, "{id}");
        }
    }

    #[test]
    fn tickets_are_told_apart_as_their_ids_are() {
        let (claim, lease) = (next_claim(), next());
        let tickets = [Ticket::at(claim), Ticket::at(lease), Ticket::unconditional()];
        assert_eq!(tickets.map(of_claim), [Some(claim), None, None]);
        let key = Key::new("k").unwrap();
        let leases = tickets.map(|ticket| (key.clone(), ticket));
        assert_eq!(of_plain_leases(&leases).collect::<Vec<_>>(), [(&key, lease)]);
        assert_eq!(of_claims(&leases).collect::<Vec<_>>(), [(&key, claim)]);
    }
}
