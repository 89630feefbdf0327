//! The scripts that keep leases. Each touches one key; whatever is under the key is the lease.
//!
//! Records of another epoch, and those that were written before a certain moment, are nothing to them: a server that was
//! restarted may have them again. So are records of a version that has no epoch.

use std::sync::LazyLock;

use redis::{Cmd, cmd};

/// A script and its digest.
pub(crate) struct Script {
    code: &'static str,
    digest: LazyLock<String>,
}

impl Script {
    /// The command that makes the script known to the server.
    pub(crate) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.code);
        load
    }

    /// The command that runs the script on `key`; its arguments are still to be added.
    pub(crate) fn run(&self, key: &[u8]) -> Cmd {
        let mut run = cmd("EVALSHA");
        run.arg(self.digest.as_str()).arg(1).arg(key);
        run
    }
}

macro_rules! script {
    ($code:expr) => {
        Script { code: $code, digest: LazyLock::new(|| redis::Script::new($code).get_hash().to_owned()) }
    };
}

/// The write id of what is there. Where there is nothing, or no record, it puts a marker and returns the marker's id; a
/// marker lives on for the full time if that is what is asked for, unless it is somebody's claim, who may have died. A shorter
/// life does not touch a marker, which may be needed by another for longer.
///
/// ARGV: the marker, its life in milliseconds, the moment, the full time.
pub(crate) static LEASE: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 37)
if type(head) == 'string' and #head == 38 and head:sub(1, 4) == 'MLC\3' and head:sub(35, 38) == ARGV[1]:sub(35, 38)
  and struct.unpack('<I8', head, 19) >= tonumber(ARGV[3]) then
  if head:byte(5) == 1 and head:byte(18) < 128 and ARGV[2] == ARGV[4] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
  return head:sub(11, 18)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]:sub(11, 18)"
);

/// Puts a claim's marker and returns its id and 1; it gives way to nothing but another's claim, whose id comes back with a 0.
/// A plain marker is replaced, which voids its tickets.
///
/// A record that is there is no marker, and its id comes back with a 1: who claims has found no value, so this one has just
/// come or cannot be read by who claims, and in the latter case nobody else would load it. A claim from the future was made
/// before the server's clock was set back, and would live too long.
///
/// ARGV: the marker, its life in milliseconds, the moment, the latest moment of a claim.
pub(crate) static CLAIM: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 37)
if type(head) == 'string' and #head == 38 and head:sub(1, 4) == 'MLC\3' and head:sub(35, 38) == ARGV[1]:sub(35, 38) then
  local created = struct.unpack('<I8', head, 19)
  if created >= tonumber(ARGV[3]) then
    if head:byte(5) ~= 1 then return {head:sub(11, 18), 1} end
    if head:byte(18) >= 128 and created <= tonumber(ARGV[4]) then return {head:sub(11, 18), 0} end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1]:sub(11, 18), 1}"
);

/// Removes the marker if it is still this one; a value may have the same id.
///
/// ARGV: the write id.
pub(crate) static RELEASE: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if type(head) ~= 'string' or head:sub(1, 5) ~= 'MLC\3\1' or head:sub(11, 18) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])"
);

/// Installs the record if the write id is still the ticket's; whether it did.
///
/// ARGV: the write id, the moment, the record, then PX and its life unless it does not expire.
pub(crate) static FILL: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 10, 37)
if type(head) ~= 'string' or #head < 28 or head:sub(1, 8) ~= ARGV[1] or head:sub(25, 28) ~= ARGV[3]:sub(35, 38)
  or struct.unpack('<I8', head, 9) < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], unpack(ARGV, 4))
return 1"
);

/// Installs the record if the write id is still the ticket's, else removes what is there.
///
/// ARGV: as of `FILL`.
pub(crate) static SET: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 10, 37)
if type(head) ~= 'string' or #head < 28 or head:sub(1, 8) ~= ARGV[1] or head:sub(25, 28) ~= ARGV[3]:sub(35, 38)
  or struct.unpack('<I8', head, 9) < tonumber(ARGV[2]) then return redis.call('UNLINK', KEYS[1]) end
return redis.call('SET', KEYS[1], ARGV[3], unpack(ARGV, 4))"
);

#[cfg(test)]
mod tests {
    use cache_core::backend::{Binding, Envelope};

    /// The scripts compare in place.
    #[test]
    fn the_scripts_know_where_things_stand() {
        assert_eq!((Envelope::WRITE_ID, Envelope::CREATED, Envelope::EPOCH), (10..18, 18..26, 34..38));
        let lease = Envelope::lease(Binding { key: b"k", epoch: u32::MAX }, u64::MAX, 1);
        assert_eq!(lease[10..19], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(lease[34..38], [0xff; 4]);
        // The version and the flags, which tell a marker from a value, stand right behind the magic.
        assert_eq!(lease[..5], *b"MLC\x03\x01");
    }
}
