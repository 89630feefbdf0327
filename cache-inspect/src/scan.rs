//! Reads the keys of a namespace, within limits.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    arguments::NamespaceArguments,
    error::Result,
    examine::examine,
    source::{Listed, MAX_RECORD, Source},
    summary::Summary,
};

/// The largest number of keys that one request reads.
const MAX_KEYS: usize = 250;

/// The largest number of bytes that one request reads, unless a single record has more.
const MAX_BYTES: u64 = 4 << 20;

/// What a scan has found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) summary: Summary,
    /// Why the scan has stopped early, `None` if it has seen all keys.
    pub(crate) stopped: Option<Stopped>,
    /// About how many keys the backend has looked at.
    pub(crate) visited: u64,
    /// The bytes of values that were read.
    pub(crate) read: u64,
    /// The keys that were gone before they were read.
    pub(crate) gone: u64,
    pub(crate) took: Duration,
}

/// Why a scan has stopped before the last key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    Limit,
    MaxBytes,
    MaxVisited,
}

impl Stopped {
    /// Returns the name of the option.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Limit => "--limit",
            Self::MaxBytes => "--max-bytes",
            Self::MaxVisited => "--max-visited",
        }
    }
}

/// Reads keys until there are no more or a limit is reached.
pub(crate) async fn scan(source: &mut dyn Source, arguments: &NamespaceArguments) -> Result<Outcome> {
    let started = Instant::now();
    let summary = Summary::new(source.run(), arguments.list);
    let mut outcome = Outcome { summary, stopped: None, visited: 0, read: 0, gone: 0, took: Duration::ZERO };
    let pause = Duration::from_millis(arguments.pause);
    let mut seen = HashSet::new();
    'scan: while let Some(page) = source.next_page().await? {
        outcome.visited += page.visited;
        // SCAN may return a key more than once.
        let mut keys: Vec<Listed> = page.keys.into_iter().filter(|key| seen.insert(key.id.clone())).collect();
        let room = usize::try_from(arguments.limit.get().saturating_sub(outcome.keys())).unwrap_or(usize::MAX);
        let has_more = keys.len() > room;
        keys.truncate(room);
        let mut rest = &keys[..];
        while !rest.is_empty() {
            if outcome.read >= arguments.max_bytes.get() {
                outcome.stopped = Some(Stopped::MaxBytes);
                break 'scan;
            }
            let (some, others) = rest.split_at(portion(rest));
            read(source, some, arguments.place.plain, &mut outcome).await?;
            rest = others;
            tokio::time::sleep(pause).await;
        }
        if has_more {
            outcome.stopped = Some(Stopped::Limit);
            break;
        }
        if outcome.visited >= arguments.max_visited.get() {
            outcome.stopped = Some(Stopped::MaxVisited);
            break;
        }
        if keys.is_empty() {
            tokio::time::sleep(pause).await;
        }
    }
    // The last page may have been the last one there is.
    if matches!(outcome.stopped, Some(Stopped::MaxVisited)) && source.next_page().await?.is_none() {
        outcome.stopped = None;
    }
    outcome.took = started.elapsed();
    Ok(outcome)
}

impl Outcome {
    /// Returns the number of keys that were read, and of those that were gone.
    fn keys(&self) -> u64 {
        self.summary.keys() + self.gone
    }
}

/// Returns how many of the keys one request reads: at least one.
fn portion(keys: &[Listed]) -> usize {
    let mut bytes = 0;
    let fitting = keys.iter().take(MAX_KEYS).take_while(|key| {
        bytes += key.size.filter(|&size| size <= MAX_RECORD).unwrap_or(0);
        bytes <= MAX_BYTES
    });
    fitting.count().max(1)
}

async fn read(source: &mut dyn Source, keys: &[Listed], is_plain: bool, outcome: &mut Outcome) -> Result<()> {
    let found = source.fetch(keys).await?;
    outcome.gone += (keys.len() - found.len().min(keys.len())) as u64;
    for found in found {
        outcome.read += found.read();
        outcome.summary.add(&found, examine(&found, source.run(), is_plain));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use cache_core::Ttl;
    use clap::Parser as _;

    use super::*;
    use crate::{
        arguments::{Arguments, Command},
        source::{Body, Found, Page, Reply, Run},
    };

    /// Pages of keys, some of which are gone when they are read.
    struct Scripted {
        pages: std::vec::IntoIter<Vec<&'static str>>,
        gone: &'static [&'static str],
    }

    impl Source for Scripted {
        fn title(&self) -> &'static str {
            "scripted"
        }

        fn run(&self) -> Run {
            Run::Irrelevant
        }

        fn next_page(&mut self) -> Reply<'_, Option<Page>> {
            let page = self.pages.next().map(|keys| Page {
                visited: keys.len() as u64 + 1,
                keys: keys.into_iter().map(|key| Listed { key: key.into(), id: key.into(), size: Some(1) }).collect(),
            });
            Box::pin(ready(Ok(page)))
        }

        fn find<'a>(&'a mut self, _: &'a [u8]) -> Reply<'a, Option<Listed>> {
            unreachable!("a scan lists keys")
        }

        fn fetch<'a>(&'a mut self, listed: &'a [Listed]) -> Reply<'a, Vec<Found>> {
            let is_there = |key: &&Listed| !self.gone.iter().any(|gone| gone.as_bytes() == key.key);
            let found = listed.iter().filter(is_there).map(|key| Found {
                key: key.key.clone(),
                bound_to: key.key.clone(),
                body: Body::Bytes(vec![0]),
                size: 1,
                ttl: Ttl::Never,
                now: 0,
                written_at: 0,
            });
            Box::pin(ready(Ok(found.collect())))
        }
    }

    /// Returns the numbers of keys that were read and gone, and why the scan has stopped.
    fn scanned(options: &[&str]) -> (u64, u64, Option<Stopped>) {
        let command = [&["cache-inspect", "namespace", "-n", "n", "--pause", "0"], options].concat();
        let arguments = Arguments::try_parse_from(command).unwrap();
        let Command::Namespace(arguments) = arguments.command else { unreachable!("the command is `namespace`") };
        let pages = vec![vec!["a", "b", "a"], vec![], vec!["c", "b", "gone"], vec!["d"], vec!["d", "a"]];
        let mut source = Scripted { pages: pages.into_iter(), gone: &["gone"] };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = runtime.block_on(scan(&mut source, &arguments)).unwrap();
        (outcome.summary.keys(), outcome.gone, outcome.stopped)
    }

    #[test]
    fn each_key_is_counted_once_and_limits_are_exact() {
        assert_eq!(scanned(&[]), (4, 1, None));
        // Five keys were listed, one of which was gone.
        assert_eq!(scanned(&["--limit", "5"]), (4, 1, None));
        assert_eq!(scanned(&["--limit", "4"]), (3, 1, Some(Stopped::Limit)));
        assert_eq!(scanned(&["--limit", "1"]), (1, 0, Some(Stopped::Limit)));
        assert_eq!(scanned(&["--max-bytes", "3"]), (3, 1, Some(Stopped::MaxBytes)));
        assert_eq!(scanned(&["--max-bytes", "4"]), (4, 1, None));
        assert_eq!(scanned(&["--max-visited", "5"]), (2, 0, Some(Stopped::MaxVisited)));
        assert_eq!(scanned(&["--max-visited", "14"]), (4, 1, None));
    }

    #[test]
    fn a_request_reads_few_keys_and_bytes() {
        let key = |size| Listed { key: Vec::new(), id: Vec::new(), size };
        assert_eq!(portion(&vec![key(Some(1)); 1000]), MAX_KEYS);
        assert_eq!(portion(&vec![key(Some(1 << 20)); 10]), 4);
        assert_eq!(portion(&[key(Some(MAX_RECORD)), key(Some(1))]), 1);
        // These are not read.
        assert_eq!(portion(&[key(Some(MAX_RECORD + 1)), key(None), key(Some(MAX_BYTES))]), 3);
    }
}
