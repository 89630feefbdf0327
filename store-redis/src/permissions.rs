//! Checks the permissions that a store needs.

use std::sync::Arc;

use cache_core::{ErrorKind, Key, Result, backend::write_id};
use redis::{Cmd, cmd};

use crate::{
    connection::{
        Servers,
        call::Call,
        cluster::slots::{SLOTS, slot_of},
        error,
        node::Node,
    },
    keyspace::Keyspace,
    record::scripts,
};

/// Runs every command that a store may need, on an unused key. `plain` tells whether the store
/// keeps plain values.
///
/// # Errors
///
/// Returns an error of kind `Denied` that names all commands that are not permitted.
pub(crate) async fn check(keyspace: &Keyspace, plain: bool) -> Result<()> {
    let mut denied = Vec::new();
    for node in keyspace.connection.shared().nodes().await? {
        for command in check_node(keyspace, &node, plain).await? {
            if !denied.contains(&command) {
                denied.push(command);
            }
        }
    }
    if denied.is_empty() { Ok(()) } else { Err(error::denied(&denied, keyspace.namespace.name())) }
}

/// Returns the commands that one server does not permit.
async fn check_node(keyspace: &Keyspace, node: &Arc<Node>, plain: bool) -> Result<Vec<&'static str>> {
    // A node without slots has no keys to check the permissions of.
    let Some(key) = unused_key(keyspace, node)? else { return Ok(Vec::new()) };
    let mut denied = find_denied(node, &key, needed_commands(keyspace, &key, plain, node)).await?;
    // EXEC alone is refused for one of two reasons, so it is asked for first: only a user who may run
    // it is let begin a transaction, which must not stay open on a connection that others share.
    if plain {
        denied.extend(find_denied(node, &key, vec![("EXEC", cmd("EXEC"))]).await?);
        if denied.last() != Some(&"EXEC") {
            let transaction = vec![("MULTI", cmd("MULTI")), ("EXEC", cmd("EXEC"))];
            denied.extend(find_denied(node, &key, transaction).await?);
        }
    }
    Ok(denied)
}

/// Returns an unused key that the server holds, if it holds any slot.
fn unused_key(keyspace: &Keyspace, node: &Arc<Node>) -> Result<Option<Key>> {
    for _ in 0..u32::from(SLOTS) * 16 {
        let key = Key::new(&write_id::next().to_string())?;
        let is_held = match &keyspace.connection.shared().servers {
            Servers::One(_) => true,
            Servers::Cluster(cluster) => cluster.holds(node, slot_of(&keyspace.namespace.key(&key))),
        };
        if is_held {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn needed_commands(keyspace: &Keyspace, key: &Key, plain: bool, node: &Node) -> Vec<(&'static str, Cmd)> {
    let name = keyspace.namespace.key(key);
    let on_key = |command: &'static str, arguments: &[&str]| {
        let mut on_key = cmd(command);
        on_key.arg(&name).arg(arguments);
        (command, on_key)
    };
    let mut scan = cmd("SCAN");
    scan.arg(0).arg("MATCH").arg(&name).arg("COUNT").arg(1);
    let script = || {
        let mut release = scripts::RELEASE.run(&name);
        release.arg("");
        [("SCRIPT LOAD", scripts::RELEASE.load()), ("EVALSHA", release)]
    };
    let mut needed = Vec::new();
    let is_announced = keyspace.publication.is_on();
    if is_announced {
        let mut publish = cmd("PUBLISH");
        // Nobody subscribes to the channel of this name.
        publish.arg(&name).arg("");
        // UNLINK removes the number.
        needed.extend([on_key("INCR", &[]), ("PUBLISH", publish)]);
    }
    needed.extend([
        on_key("GET", &[]),
        on_key("MGET", &[]),
        // Sets nothing, because the key does not exist.
        on_key("SET", &["", "XX", "PX", "1"]),
        on_key("UNLINK", &[]),
        on_key("PERSIST", &[]),
        ("SCAN", scan),
        ("PING", cmd("PING")),
    ]);
    if node.is_shard() {
        let on_cluster = |subcommand: &str| {
            let mut command = cmd("CLUSTER");
            command.arg(subcommand);
            command
        };
        needed.push(("CLUSTER INFO", on_cluster("INFO")));
        needed.push(("CLUSTER NODES", on_cluster("NODES")));
        needed.push(("CLUSTER SLOTS", on_cluster("SLOTS")));
        // The next command is one on the key.
        needed.push(("ASKING", cmd("ASKING")));
        needed.push(on_key("GET", &[]));
    }
    if plain {
        needed.extend([on_key("PTTL", &[]), on_key("PEXPIREAT", &["1"])]);
    } else {
        needed.extend([
            on_key("GETRANGE", &["0", "0"]),
            // Sets nothing, because there are no bytes to set.
            on_key("SETRANGE", &["0", ""]),
            on_key("STRLEN", &[]),
            on_key("PEXPIRE", &["1"]),
        ]);
    }
    let is_confirmed = node.replicas() > 0;
    if is_confirmed {
        let mut wait = cmd("WAIT");
        wait.arg(0).arg(1);
        needed.push(("WAIT", wait));
    }
    if is_announced || is_confirmed || !plain {
        needed.extend(script());
    }
    needed
}

/// Returns the commands that are not permitted.
async fn find_denied(node: &Arc<Node>, key: &Key, commands: Vec<(&'static str, Cmd)>) -> Result<Vec<&'static str>> {
    let call = Call::new(node);
    let link = call.link_of(key);
    let (names, commands): (Vec<_>, Vec<_>) = commands.into_iter().map(|(name, cmd)| (name, (link, cmd))).unzip();
    let replies = call.send_all(&[], None, commands).await;
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
