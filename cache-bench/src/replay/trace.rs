//! Traces of accesses.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// The keys that were accessed, in order, as numbers from 0.
pub(crate) struct Trace {
    requests: Vec<u64>,
    keys: usize,
}

impl Trace {
    /// Reads a trace.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = BufReader::new(File::open(path)?);
        let is_compressed = path.extension().is_some_and(|extension| extension == "zst");
        let bytes: Box<dyn Read> =
            if is_compressed { Box::new(zstd::Decoder::with_buffer(file)?) } else { Box::new(file) };
        let is_arc = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".lis"));
        let mut numbers = HashMap::<String, u64>::new();
        let mut requests = Vec::new();
        let mut request = |key: String| {
            let next = numbers.len() as u64;
            requests.push(*numbers.entry(key).or_insert(next));
        };
        for line in BufReader::new(bytes).lines() {
            let line = line?;
            if is_arc {
                let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("no ARC request: {line:?}"));
                let mut fields = line.split_whitespace().map(str::parse::<u64>);
                let (first, count) = match (fields.next(), fields.next()) {
                    (Some(Ok(first)), Some(Ok(count))) => (first, count),
                    _ => return Err(invalid()),
                };
                (first..first.saturating_add(count)).for_each(|block| request(block.to_string()));
            } else if !line.is_empty() {
                request(line);
            }
        }
        Ok(Self { requests, keys: numbers.len() })
    }

    /// The trace of these keys.
    #[cfg(test)]
    pub(crate) fn of(requests: &[u64]) -> Self {
        Self { requests: requests.to_vec(), keys: requests.len() }
    }

    /// Keeps the first requests alone.
    pub(crate) fn truncate(&mut self, limit: usize) {
        self.requests.truncate(limit);
    }

    pub(crate) fn requests(&self) -> &[u64] {
        &self.requests
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// The number of keys in the whole trace.
    pub(crate) fn keys(&self) -> usize {
        self.keys
    }
}
