//! The Lua scripts for leases and for writes with a ticket. Each touches one key; the record or
//! marker of the key is the lease.
//!
//! The scripts ignore invalid records: those of another epoch, those that were written before the
//! time that the caller passes, and those of format versions without an epoch. A server that was
//! restarted may hold such records again.
//!
//! A script that changes what readers see exists twice: alone, and with the announcement of the
//! change by pub/sub (see `announcement`). A script is atomic, so no announcement is lost if its
//! caller ends in between.

use std::sync::LazyLock;

use redis::{Cmd, cmd};

/// A script and its digest.
pub(crate) struct Script {
    code: &'static str,
    digest: LazyLock<String>,
}

impl Script {
    /// Returns the command that loads the script into the server.
    pub(crate) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.code);
        load
    }

    /// Returns the command that runs the script on `key`, without its arguments.
    pub(crate) fn run(&self, key: &[u8]) -> Cmd {
        let mut run = self.run_on(1);
        run.arg(key);
        run
    }

    /// Returns the command that runs the script on so many keys, without them.
    pub(crate) fn run_on(&self, keys: usize) -> Cmd {
        let mut run = cmd("EVALSHA");
        run.arg(self.digest.as_str()).arg(keys);
        run
    }
}

macro_rules! script {
    ($code:expr) => {
        Script { code: $code, digest: LazyLock::new(|| redis::Script::new($code).get_hash().to_owned()) }
    };
}

/// A script that changes what readers see.
pub(crate) struct WriteScript {
    /// Without an announcement.
    pub(crate) quiet: Script,
    /// With an announcement. One that is not always announced is not if it returns 0 or nil: then it
    /// has changed nothing.
    ///
    /// KEYS: the key, the counter, the channel. ARGV: as for the script alone.
    pub(crate) announcing: Script,
}

/// The Lua function that announces a change: counts it and publishes it on the channel.
///
/// It runs after the change. A server that is out of memory lets a script go on that has written
/// before. If the counter is no number or too large for one of Lua, it starts again, which
/// subscribers notice.
macro_rules! announce {
    () => {
        r"local function announce(kind, key)
  local number = redis.pcall('INCR', KEYS[2])
  if type(number) ~= 'number' or number < 1 or number > 9007199254740991 then
    redis.call('UNLINK', KEYS[2])
    number = redis.call('INCR', KEYS[2])
  end
  redis.call('PUBLISH', KEYS[3], 'MLI\1' .. kind .. struct.pack('<I8', number) .. key)
end
"
    };
}

macro_rules! write_script {
    // Announced even if the key was not there: memory may hold an entry that this server has evicted.
    (always $code:expr) => {
        write_script!($code, "true")
    };
    ($code:expr) => {
        write_script!($code, "reply and reply ~= 0")
    };
    ($code:expr, $is_announced:expr) => {
        WriteScript {
            quiet: script!($code),
            announcing: script!(concat!(
                announce!(),
                "local function write()\n",
                $code,
                "\nend
local reply = write()
if ",
                $is_announced,
                " then announce('K', KEYS[1]:sub(#KEYS[2] + 1)) end
return reply"
            )),
        }
    };
}

/// Takes a lease. Returns the write id of the record or marker of the key; if there is none, sets
/// the marker and returns its id.
///
/// A lease of the full TTL extends the life of a plain marker, but not of a claim, whose holder may
/// have died. A shorter lease does not change the marker, which another caller may need for longer.
///
/// A record that has expired for the caller counts as missing: the server deletes it in a moment,
/// and its id would be void.
///
/// ARGV: the marker, its life in milliseconds, the time before which records are invalid, the
/// latest time that it can be on the server, the full TTL.
pub(crate) static LEASE: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 37)
if type(head) == 'string' and #head == 38 and head:sub(1, 4) == 'MLC\3' and head:sub(35, 38) == ARGV[1]:sub(35, 38)
  and struct.unpack('<I8', head, 19) >= tonumber(ARGV[3]) then
  local expires = struct.unpack('<I8', head, 27)
  if expires == 0 or expires > tonumber(ARGV[4]) then
    if head:byte(5) == 1 and head:byte(18) < 128 and ARGV[2] == ARGV[5] then
      redis.call('PEXPIRE', KEYS[1], ARGV[2])
    end
    return head:sub(11, 18)
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]:sub(11, 18)"
);

/// Takes a claim. Sets the claim's marker and returns its id and 1. If another claim is held,
/// returns the id of that one and 0. A plain marker is replaced, which voids its tickets.
///
/// If the key holds a record that has not expired, returns its id and 1. The caller has found no
/// value, so this one is new, or the caller cannot read it; in the latter case no other process
/// would load it.
///
/// The marker replaces a record that has expired by the latest time that it can be on the server.
/// Every reader counts a record as expired a moment before the server deletes it, and until then
/// every claim would be granted. Another process may count it as fresh for that moment, and misses
/// it. What was dated in the future is replaced as well: it is from before the server's clock was set
/// back, and would live too long.
///
/// ARGV: the marker, its life in milliseconds, the time before which records are invalid, the
/// latest time that it can be on the server, the latest time of what is not dated in the future.
pub(crate) static CLAIM: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 37)
if type(head) == 'string' and #head == 38 and head:sub(1, 4) == 'MLC\3' and head:sub(35, 38) == ARGV[1]:sub(35, 38) then
  local created, expires = struct.unpack('<I8I8', head, 19)
  if created >= tonumber(ARGV[3]) then
    if head:byte(5) ~= 1 and (expires == 0 or (expires > tonumber(ARGV[4]) and created <= tonumber(ARGV[5]))) then
      return {head:sub(11, 18), 1}
    end
    if head:byte(5) == 1 and head:byte(18) >= 128 and created <= tonumber(ARGV[5]) then
      return {head:sub(11, 18), 0}
    end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1]:sub(11, 18), 1}"
);

/// Removes the marker with this id. A value with the same id stays.
///
/// ARGV: the write id.
pub(crate) static RELEASE: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if type(head) ~= 'string' or head:sub(1, 5) ~= 'MLC\3\1' or head:sub(11, 18) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])"
);

/// Changes the life of the claim's marker with this id. A value with the same id stays as it is.
///
/// ARGV: the write id, the life in milliseconds.
pub(crate) static RENEW: Script = script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, 17)
if type(head) ~= 'string' or head:sub(1, 5) ~= 'MLC\3\1' or head:sub(11, 18) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
);

/// Removes the key and returns the bytes that it held, or the error that reading them gives.
pub(crate) static TAKE: WriteScript = write_script!(
    always
    r"local value = redis.pcall('GET', KEYS[1])
redis.call('UNLINK', KEYS[1])
return value"
);

/// Replaces the head of the record and the life of the key, if the record still has the head and
/// the length that the caller has read. Returns 1 if it did, else 0.
///
/// ARGV: the head, the length of the record, the new head, then its life in milliseconds if it
/// expires.
pub(crate) static TOUCH: WriteScript = write_script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if head ~= ARGV[1] or redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
redis.call('SETRANGE', KEYS[1], 0, ARGV[3])
if ARGV[4] then redis.call('PEXPIRE', KEYS[1], ARGV[4]) else redis.call('PERSIST', KEYS[1]) end
return 1"
);

/// Replaces the record if it still has the head and the length that the caller has read. Returns 1
/// if it did, else 0.
///
/// ARGV: the head, the length of the record, the new record, then PX and its life if it expires.
pub(crate) static REPLACE: WriteScript = write_script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if head ~= ARGV[1] or redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], unpack(ARGV, 4))
return 1"
);

/// Writes the record if the current write id is the ticket's. Returns 1 if it did, else 0.
///
/// ARGV: the ticket's write id, the time before which records are invalid, the record, then PX and
/// its life if it expires.
pub(crate) static FILL: WriteScript = write_script!(
    r"local head = redis.pcall('GETRANGE', KEYS[1], 10, 37)
if type(head) ~= 'string' or #head < 28 or head:sub(1, 8) ~= ARGV[1] or head:sub(25, 28) ~= ARGV[3]:sub(35, 38)
  or struct.unpack('<I8', head, 9) < tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], unpack(ARGV, 4))
return 1"
);

/// Writes the record if the current write id is the ticket's, else removes the key.
///
/// ARGV: as for `FILL`.
pub(crate) static SET: WriteScript = write_script!(
    always
    r"local head = redis.pcall('GETRANGE', KEYS[1], 10, 37)
if type(head) ~= 'string' or #head < 28 or head:sub(1, 8) ~= ARGV[1] or head:sub(25, 28) ~= ARGV[3]:sub(35, 38)
  or struct.unpack('<I8', head, 9) < tonumber(ARGV[2]) then return redis.call('UNLINK', KEYS[1]) end
return redis.call('SET', KEYS[1], ARGV[3], unpack(ARGV, 4))"
);

/// Writes the key whatever it holds, as the command SET does.
///
/// ARGV: the value, then the options of SET.
pub(crate) static PUT: WriteScript = write_script!("return redis.call('SET', KEYS[1], unpack(ARGV))");

/// Removes the key, as the command UNLINK does.
pub(crate) static REMOVE: WriteScript = write_script!(always "return redis.call('UNLINK', KEYS[1])");

/// Removes the key. Returns the plain value that it held, its TTL and the number of keys removed.
pub(crate) static TAKE_PLAIN: WriteScript =
    write_script!(r"return {redis.pcall('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('UNLINK', KEYS[1])}");

/// Changes the life of a key with a plain value. Returns 1, or 0 if there is no key.
///
/// ARGV: the time at which it expires, if it does.
pub(crate) static TOUCH_PLAIN: WriteScript = write_script!(
    r"if ARGV[1] then return redis.call('PEXPIREAT', KEYS[1], ARGV[1]) end
if redis.call('PTTL', KEYS[1]) == -2 then return 0 end
redis.call('PERSIST', KEYS[1])
return 1"
);

/// Removes keys, and announces that all may have changed.
///
/// KEYS: any key of the namespace, the counter, the channel, the keys to remove.
pub(crate) static CLEAR: Script = script!(concat!(
    announce!(),
    r"for at = 4, #KEYS, 1000 do redis.call('UNLINK', unpack(KEYS, at, math.min(at + 999, #KEYS))) end
announce('A', '')
return 1"
));

/// Publishes a heartbeat: the number of the last announcement. Nothing is announced between the
/// reading of the number and its publication.
///
/// Creates the counter if it is missing, so that each loss of it changes the number.
///
/// KEYS: the counter, the channel. ARGV: what distinguishes this heartbeat from all others, and a
/// random number to begin with.
pub(crate) static BEAT: Script = script!(
    r"local number = tonumber(redis.pcall('GET', KEYS[1]))
if not number then
    local created = redis.pcall('SET', KEYS[1], ARGV[2], 'NX')
    number = type(created) == 'table' and created.ok and tonumber(ARGV[2]) or 0
end
return redis.call('PUBLISH', KEYS[2], 'MLI\1B' .. struct.pack('<I8', number) .. ARGV[1])"
);

#[cfg(test)]
mod tests {
    use cache_core::backend::{Binding, Envelope};

    /// The scripts compare bytes at fixed offsets of the record.
    #[test]
    fn the_scripts_use_the_offsets_of_the_envelope() {
        assert_eq!((Envelope::WRITE_ID, Envelope::CREATED), (10..18, 18..26));
        assert_eq!((Envelope::EXPIRES, Envelope::EPOCH), (26..34, 34..38));
        let lease = Envelope::lease(Binding::new(b"k", u32::MAX), u64::MAX, 1);
        assert_eq!(lease[10..19], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(lease[34..38], [0xff; 4]);
        // The version and the flags, which distinguish a marker from a value, follow the magic.
        assert_eq!(lease[..5], *b"MLC\x03\x01");
    }
}
