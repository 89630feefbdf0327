//! How slots move between primaries.

use super::RedisCluster;

impl RedisCluster {
    /// Returns the slot of a key.
    pub fn slot_of(&self, key: &[u8]) -> u16 {
        let node = self.running().first().map(|&index| &self.nodes[index]).expect("a node that runs");
        let slot = node.raw(&[b"CLUSTER", b"KEYSLOT", key]);
        String::from_utf8_lossy(&slot).parse().expect("a slot")
    }

    /// Moves a slot and its keys to another primary, as `redis-cli --cluster reshard` does, and waits
    /// until all nodes that run know it.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        self.begin_move(slot, to);
        while self.migrate_keys(slot, 100) > 0 {}
        self.finish_move(slot).await;
    }

    /// Begins to move a slot. From now on, its owner answers `ASK` for each key that it does not have.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let from = self.owner_of(slot);
        self.set_slot(to, slot, &["IMPORTING", self.node_id(from)]);
        self.set_slot(from, slot, &["MIGRATING", self.node_id(to)]);
    }

    /// Moves up to this many keys of a slot after [`begin_move`](Self::begin_move). Returns their number; no key
    /// is left when it is zero.
    pub fn migrate_keys(&self, slot: u16, limit: usize) -> usize {
        let (from, to) = (&self.nodes[self.owner_of(slot)], self.importer_of(slot));
        let (slot, limit) = (slot.to_string(), limit.to_string());
        let keys = from.request(&[b"CLUSTER", b"GETKEYSINSLOT", slot.as_bytes(), limit.as_bytes()]);
        let keys = keys.expect("the owner of the slot answers").into_elements();
        if keys.is_empty() {
            return 0;
        }
        let port = self.port_for_nodes(to);
        let mut migrate: Vec<&[u8]> = vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"10000"];
        migrate.extend([b"REPLACE".as_slice(), b"KEYS"]);
        migrate.extend(keys.iter().map(Vec::as_slice));
        let reply = String::from_utf8_lossy(&from.raw(&migrate)).into_owned();
        // NOKEY: all of them have expired.
        assert!(["OK", "NOKEY"].contains(&reply.as_str()), "MIGRATE of slot {slot}: {reply}");
        keys.len()
    }

    /// Makes the other node the owner of a slot after [`begin_move`](Self::begin_move), and waits until all nodes
    /// that run know it.
    ///
    /// # Panics
    ///
    /// Panics if a key has not been [migrated](Self::migrate_keys).
    pub async fn finish_move(&self, slot: u16) {
        let (from, to) = (self.owner_of(slot), self.importer_of(slot));
        let others = self.primaries().into_iter().filter(|&index| index != from && index != to);
        let others = others.filter(|&index| self.nodes[index].is_running());
        // The new owner first: the old one sends its clients there from then on.
        for index in [to, from].into_iter().chain(others) {
            self.set_slot(index, slot, &["NODE", self.node_id(to)]);
        }
        let is_known = || (self.agreed_owners()?[usize::from(slot)] == to).then_some(());
        self.wait(&format!("the move of slot {slot} to node {to}"), is_known).await;
    }

    fn set_slot(&self, index: usize, slot: u16, arguments: &[&str]) {
        let slot = slot.to_string();
        let command: Vec<&str> = ["CLUSTER", "SETSLOT", &slot].into_iter().chain(arguments.iter().copied()).collect();
        self.command(index, &command);
    }

    /// Returns the node that a slot moves to.
    fn importer_of(&self, slot: u16) -> usize {
        let imports = |&index: &usize| self.own_line(index).is_some_and(|line| line.imports(slot));
        let importer = (0..self.nodes.len()).find(imports);
        importer.unwrap_or_else(|| panic!("slot {slot} does not move; {}", self.report()))
    }
}
