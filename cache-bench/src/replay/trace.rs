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
    keys: u64,
}

impl Trace {
    /// Reads a trace. Its keys are those of a column of fields separated by commas, if there is one;
    /// the first is 1.
    pub(crate) fn read(path: &Path, column: Option<usize>) -> io::Result<Self> {
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
            let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {line:?}"));
            if let Some(column) = column {
                let field = line.split(',').nth(column - 1).map(str::trim).filter(|field| !field.is_empty());
                request(field.ok_or_else(|| invalid("the line has no such column"))?.to_owned());
            } else if is_arc {
                let mut fields = line.split_whitespace().map(str::parse::<u64>);
                let (Some(Ok(first)), Some(Ok(count))) = (fields.next(), fields.next()) else {
                    return Err(invalid("no ARC request"));
                };
                (first..first.saturating_add(count)).for_each(|block| request(block.to_string()));
            } else if !line.is_empty() {
                request(line);
            }
        }
        Ok(Self { requests, keys: numbers.len() as u64 })
    }

    /// The trace of these keys.
    #[cfg(test)]
    pub(crate) fn of(requests: &[u64]) -> Self {
        Self { requests: requests.to_vec(), keys: requests.len() as u64 }
    }

    /// Keeps the first requests alone.
    pub(crate) fn truncate(&mut self, limit: usize) {
        self.requests.truncate(limit);
        self.keys = self.requests.iter().copied().max().map_or(0, |most| most + 1);
    }

    pub(crate) fn requests(&self) -> &[u64] {
        &self.requests
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// The number of keys.
    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_the_key() -> io::Result<()> {
        let file = std::env::temp_dir().join(format!("cache-bench-{}.csv", std::process::id()));
        std::fs::write(&file, "1,b,x\n2, a,x\n3,b,y\n")?;
        let read = |column| Trace::read(&file, Some(column));
        let (second, fourth) = (read(2)?, read(4));
        std::fs::remove_file(&file)?;
        assert_eq!((second.requests(), second.keys()), (&[0, 1, 0][..], 2));
        assert_eq!(fourth.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        Ok(())
    }
}
