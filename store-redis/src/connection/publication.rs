//! The announcement of a store's writes by pub/sub.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use cache_core::{
    Result,
    backend::{only, write_id},
};
use redis::{Cmd, Pipeline};
use tokio::sync::Notify;

use super::{call::Call, node::Node};
use crate::record::scripts::{self, Script, WriteScript};

/// The announcements of the writes of one store. They begin when the stream of the store falls back
/// on pub/sub, and then go on: others may depend on them.
pub(crate) struct Publication {
    /// The key of the counter: the prefix of the namespace. No key of the cache is empty, so none
    /// has this name.
    counter: Box<str>,
    channel: Box<str>,
    is_on: AtomicBool,
    /// `true` when others have been told to check what was written before.
    is_complete: AtomicBool,
    /// The number of calls that write without an announcement.
    quiet: AtomicUsize,
    finished: Notify,
}

impl Publication {
    /// The publication of the changes of one namespace in one database: the databases of a server
    /// share the channels, but not the counter.
    pub(crate) fn new(prefix: &str, database: i64, is_on: bool) -> Self {
        Self {
            counter: prefix.into(),
            channel: format!("{prefix}\\invalidate/{database}").into(),
            is_on: AtomicBool::new(is_on),
            is_complete: AtomicBool::new(is_on),
            quiet: AtomicUsize::new(0),
            finished: Notify::new(),
        }
    }

    pub(crate) fn counter(&self) -> &str {
        &self.counter
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(SeqCst)
    }

    /// Starts a call that writes. The value is kept until the replies have come.
    pub(crate) fn writing(&self) -> Writing<'_> {
        self.quiet.fetch_add(1, SeqCst);
        // In this order: `turn_on` waits for the calls that have seen that it is off.
        let is_announced = self.is_on();
        if is_announced {
            self.finish();
        }
        Writing { publication: self, is_announced }
    }

    fn finish(&self) {
        if self.quiet.fetch_sub(1, SeqCst) == 1 {
            self.finished.notify_waiters();
        }
    }

    /// Returns the command that removes these keys and announces that all keys may have changed.
    pub(crate) fn clear(&self, keys: &[Vec<u8>]) -> Cmd {
        let mut clear = scripts::CLEAR.run_on(3 + keys.len());
        clear.arg(&*self.counter).arg(&*self.counter).arg(&*self.channel).arg(keys);
        clear
    }

    /// Returns commands that need the permissions of an announcement and announce nothing.
    pub(super) fn probe(&self) -> Pipeline {
        let unused = format!("{}{}", self.counter, write_id::next());
        let mut probe = Pipeline::with_capacity(3);
        probe.cmd("INCR").arg(&unused).cmd("UNLINK").arg(&unused);
        probe.cmd("PUBLISH").arg(&unused).arg("");
        probe
    }

    /// Announces the writes that begin from now on, and waits for the others.
    async fn switch_on(&self) {
        self.is_on.store(true, SeqCst);
        loop {
            let finished = self.finished.notified();
            if self.quiet.load(SeqCst) == 0 {
                return;
            }
            finished.await;
        }
    }

    /// Announces the writes of the store from now on, and once that any key may have changed, since
    /// earlier writes were not announced.
    ///
    /// # Errors
    ///
    /// Returns the error of an announcement. Call it again then.
    pub(super) async fn turn_on(&self, node: &Arc<Node>) -> Result<()> {
        self.switch_on().await;
        if self.is_complete.load(SeqCst) {
            return Ok(());
        }
        // A call that was dropped may have sent commands, which are applied before those that are
        // sent later on the same link.
        for link in 0..node.links() {
            let announce = vec![(link, self.clear(&[]))];
            only(Call::new(node).send_all(&[&scripts::CLEAR], None, announce).await)?;
        }
        self.is_complete.store(true, SeqCst);
        Ok(())
    }
}

/// A call that writes.
pub(crate) struct Writing<'a> {
    publication: &'a Publication,
    pub(crate) is_announced: bool,
}

impl Writing<'_> {
    /// Returns the script to load for commands of [`run`](Self::run).
    pub(crate) fn script<'s>(&self, script: &'s WriteScript) -> &'s Script {
        if self.is_announced { &script.announcing } else { &script.quiet }
    }

    /// Returns the command that runs the script on `key`, without its arguments.
    pub(crate) fn run(&self, script: &WriteScript, key: &[u8]) -> Cmd {
        if !self.is_announced {
            return script.quiet.run(key);
        }
        let mut run = script.announcing.run_on(3);
        run.arg(key).arg(&*self.publication.counter).arg(&*self.publication.channel);
        run
    }

    /// Returns the command that does what `SET key` does, without its other arguments, which have
    /// `rest` bytes.
    pub(crate) fn set(&self, key: &[u8], rest: usize) -> Cmd {
        self.command("SET", &scripts::PUT, key, rest)
    }

    /// Returns the command that removes the key.
    pub(crate) fn unlink(&self, key: &[u8]) -> Cmd {
        self.command("UNLINK", &scripts::REMOVE, key, 0)
    }

    /// Returns the command of this name on `key`, or that of the script which announces it. There
    /// is room for other arguments of `rest` bytes.
    fn command(&self, name: &str, script: &WriteScript, key: &[u8], rest: usize) -> Cmd {
        if self.is_announced {
            return self.run(script, key);
        }
        let mut command = Cmd::with_capacity(5, name.len() + key.len() + rest);
        command.arg(name).arg(key);
        command
    }

    /// Returns the scripts that must be loaded for [`set`](Self::set), [`unlink`](Self::unlink) and
    /// this one.
    pub(crate) fn scripts<'s>(&self, script: Option<&'s WriteScript>) -> Vec<&'s Script> {
        let announcing = [&scripts::PUT.announcing, &scripts::REMOVE.announcing].into_iter();
        let commands = announcing.filter(|_| self.is_announced);
        script.map(|script| self.script(script)).into_iter().chain(commands).collect()
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_announced {
            self.publication.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// Those that write without an announcement have ended when others are told to check.
    #[test]
    fn switching_on_waits_for_quiet_calls() {
        let publication = Publication::new("n:", 0, false);
        let (first, second) = (publication.writing(), publication.writing());
        assert!(!first.is_announced && !second.is_announced);
        let mut context = Context::from_waker(Waker::noop());
        let mut switching = pin!(publication.switch_on());
        assert_eq!(switching.as_mut().poll(&mut context), Poll::Pending);
        let announced = publication.writing();
        assert!(announced.is_announced);
        drop(first);
        assert_eq!(switching.as_mut().poll(&mut context), Poll::Pending);
        drop(second);
        assert_eq!(switching.as_mut().poll(&mut context), Poll::Ready(()), "announced calls are not waited for");
        drop(announced);
    }
}
