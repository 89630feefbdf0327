//! The keys that are read, and in which order.

use std::ops::Range;

/// The places of `calls` keys, all of them in turn.
pub(crate) fn in_turn(keys: Range<u32>, calls: usize) -> Vec<u32> {
    keys.cycle().take(calls).collect()
}

/// The places of `calls` keys of `0..keys`: the n-th most popular is read with a probability
/// proportional to n^-0.99, as in YCSB. Popular keys are at random places. Always the same order.
pub(crate) fn zipf(keys: u32, calls: usize) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(42);
    let mut places: Vec<u32> = (0..keys).collect();
    random.shuffle(&mut places);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += f64::from(rank).powf(-0.99);
            sum
        })
        .collect();
    let mut place = || {
        let drawn = random.f64() * sum;
        places[sums.partition_point(|below| *below <= drawn).min(places.len() - 1)]
    };
    (0..calls).map(|_| place()).collect()
}

/// Names such as `users:42`.
pub(crate) fn names(numbers: Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("users:{number}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn popular_keys_are_read_as_often_as_zipf_says() {
        let mut counts = vec![0_u32; 1000];
        for at in zipf(1000, 100_000) {
            counts[at as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let sum: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-0.99)).sum();
        let expected = 100_000.0 / sum;
        assert!((f64::from(counts[0]) / expected - 1.0).abs() < 0.05, "{} of {expected}", counts[0]);
        assert!(counts[999] < 100, "{}", counts[999]);
    }
}
