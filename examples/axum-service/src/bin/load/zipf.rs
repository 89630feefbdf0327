//! Keys of which a few are asked for often, and many seldom.

/// Draws numbers from 1 on, each in inverse proportion to itself: 1 twice as often as 2.
pub(crate) struct Zipf {
    /// The sums of the weights of 1, of 1 and 2, and so on.
    sums: Vec<f64>,
}

impl Zipf {
    /// Draws from 1 up to this number, which is above zero.
    pub(crate) fn new(most: u32) -> Self {
        let weights = (1..=most).map(|number| 1.0 / f64::from(number));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    pub(crate) fn draw(&self) -> u32 {
        self.at(fastrand::f64())
    }

    /// Returns the number at this share of all weights, 0 to 1.
    fn at(&self, share: f64) -> u32 {
        let target = share * self.sums.last().copied().unwrap_or_default();
        let below = self.sums.partition_point(|sum| *sum <= target).min(self.sums.len() - 1);
        u32::try_from(below).map_or(u32::MAX, |below| below + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_has_the_largest_share() {
        // The weights are 1, 1/2 and 1/3, of 11/6 together.
        let zipf = Zipf::new(3);
        let shares = [0.0, 0.54, 0.55, 0.81, 0.82, 1.0];
        assert_eq!(shares.map(|share| zipf.at(share)), [1, 1, 2, 2, 3, 3]);
    }
}
