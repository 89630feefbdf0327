//! The memory that frames take which claim or decompress to more than the limit.
#![cfg(all(feature = "zstd", target_os = "linux"))]

use std::fs;

use allocation_counter::measure;
use cache_core::{Codec, ErrorKind, Result, codec::Compressed};

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// The longest block.
const BLOCK: usize = 128 << 10;

struct Raw;

impl Codec<()> for Raw {
    const ID: u8 = 200;

    fn encode(&self, (): &(), _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= 16 * MIB);
        Ok(())
    }
}

/// The payload of a frame with this header after the magic, and blocks of zeros of this total size.
fn payload(header: &[u8], size: usize) -> Vec<u8> {
    let mut payload = [&[1, 200][..], &0xFD2F_B528_u32.to_le_bytes(), header].concat();
    let mut rest = size;
    while rest > 0 {
        let block = rest.min(BLOCK);
        rest -= block;
        let header = u32::try_from(block << 3).unwrap() | 1 << 1 | u32::from(rest == 0);
        payload.extend_from_slice(&header.to_le_bytes()[..3]);
        payload.push(0);
    }
    payload
}

/// A header that states a size, of a frame of one segment.
fn stating(size: usize) -> Vec<u8> {
    [&[0xE0][..], &(size as u64).to_le_bytes()].concat()
}

/// A header that asks for a window of 2 to the power of `log` bytes, and states a size if there is
/// one.
fn asking(log: u8, size: Option<usize>) -> Vec<u8> {
    match size {
        Some(size) => [&[0xC0, (log - 10) << 3][..], &(size as u64).to_le_bytes()].concat(),
        None => vec![0, (log - 10) << 3],
    }
}

/// The largest size that the memory of the process had, which includes memory of C that was not
/// touched.
fn largest_size() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

fn decode(payload: &[u8]) -> bool {
    let decoded = Compressed::new(Raw).decode(payload);
    decoded.map_err(|error| assert_eq!(error.kind(), ErrorKind::Codec)).is_ok()
}

/// The only test of this process, so that nothing else takes memory.
#[test]
fn a_bomb_takes_16_mib_at_most() {
    // Whatever is allocated once.
    assert!(decode(&payload(&stating(16 * MIB), 16 * MIB)));
    let before = largest_size();
    let check = |what, payload: &[u8], decodes, most| {
        assert!(payload.len() < 64 << 10);
        let mut decoded = false;
        let allocations = measure(|| decoded = decode(payload));
        assert_eq!(decoded, decodes, "{what}");
        assert!(allocations.bytes_max <= most as u64, "{what}: {} bytes", allocations.bytes_max);
        let more = largest_size() - before;
        assert!(more <= MIB, "{what}: the process grew by {more} bytes");
    };
    let (little, limit) = (1 << 10, 16 * MIB + (1 << 10));
    check("the largest frame", &payload(&stating(16 * MIB), 16 * MIB), true, limit);
    check("1 GiB that is stated", &payload(&stating(GIB), GIB), false, little);
    check("all of the memory, which is stated", &payload(&stating(usize::MAX - 2), BLOCK), false, little);
    check("1 GiB where 16 MiB are stated", &payload(&stating(16 * MIB), GIB), false, limit);
    check("1 GiB where 1000 bytes are stated", &payload(&stating(1000), GIB), false, 2 * little);
    check("1 GiB where nothing is stated", &payload(&asking(20, None), GIB), false, little);
    check("16 MiB where there is nothing", &payload(&stating(16 * MIB), 0), false, limit);
    for log in [27, 31] {
        check("a large window", &payload(&asking(log, Some(1000)), 1000), true, 2 * little);
        check("a large window of 1 GiB", &payload(&asking(log, Some(GIB)), GIB), false, little);
        check("a large window of what is not stated", &payload(&asking(log, None), GIB), false, little);
    }
    check("a window that is too large", &payload(&asking(41, Some(1000)), 1000), false, 2 * little);
}
