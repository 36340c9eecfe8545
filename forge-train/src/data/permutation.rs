//! Shuffled orders that take no memory: a keyed bijection of `0..n`.
//!
//! A balanced Feistel network (Luby & Rackoff 1988, SIAM J. Comput. 17:373) permutes the smallest power of four that
//! holds `n`; numbers that come out beyond `n` go through it again until they do not ("cycle walking", Black &
//! Rogaway 2002, CT-RSA), which keeps the map a bijection and takes fewer than four passes on average.

use crate::rng::Rng;

/// Rounds of the network: four make it a pseudo-random permutation, two more cost little.
const ROUNDS: usize = 6;
/// Least bits of a half: below, a round has too few values to mix.
const MIN_HALF: u32 = 3;

/// A bijection of `0..n` chosen by a seed.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    /// Bits of a half of the network's numbers.
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` under `seed`, `label` and `epoch`.
    ///
    /// # Panics
    /// If `n` is above 2⁶².
    pub fn new(n: u64, seed: u64, label: &str, epoch: u64) -> Self {
        assert!(n <= 1 << 62, "too many numbers to permute");
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let mut rng = Rng::new(seed, &["permutation", label, &epoch.to_string()]);
        Self { n, half: bits.div_ceil(2).max(MIN_HALF), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// Where `index` comes in the shuffled order.
    ///
    /// # Panics
    /// If `index` is not below `n`.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.n, "{index} of {}", self.n);
        let mut x = self.pass(index);
        while x >= self.n {
            x = self.pass(x);
        }
        x
    }

    /// Once through the network.
    fn pass(&self, x: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014, OOPSLA): every input bit changes half of the output's.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: u64, seed: u64, epoch: u64) -> Vec<u64> {
        let permutation = Permutation::new(n, seed, "test", epoch);
        (0..n).map(|i| permutation.at(i)).collect()
    }

    #[test]
    fn every_number_occurs_once() {
        for n in (1..70).chain([255, 256, 257, 1023, 4096, 5000]) {
            let mut sorted = order(n, 3, 1);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "{n}");
        }
    }

    #[test]
    fn seed_and_epoch_choose_the_order() {
        assert_eq!(order(1000, 1, 2), order(1000, 1, 2));
        assert_ne!(order(1000, 1, 2), order(1000, 1, 3));
        assert_ne!(order(1000, 1, 2), order(1000, 2, 2));
    }

    /// Over many keys, each number lands in each place about equally often: χ² of a 10 × 10 table, 81 degrees of
    /// freedom, whose 99.99 % quantile is 136. A network of one round, which leaves half a number as it is, is far out.
    #[test]
    fn places_are_uniform() {
        let chi_squared = |order: &dyn Fn(u64) -> Vec<u64>| {
            let (trials, n) = (4000, 10);
            let mut table = [[0f64; 10]; 10];
            for seed in 0..trials {
                for (place, number) in order(seed).into_iter().enumerate() {
                    table[place][number as usize] += 1.0;
                }
            }
            let expected = trials as f64 / n as f64;
            table.iter().flatten().map(|c| (c - expected).powi(2) / expected).sum::<f64>()
        };
        let good = chi_squared(&|seed| order(10, seed, 0));
        assert!(good < 136.0, "{good}");
        let rotation = chi_squared(&|seed| (0..10).map(|i| (i + seed % 2) % 10).collect());
        assert!(rotation > 1000.0, "a poor shuffle must be told: {rotation}");
    }

    #[test]
    fn neighbours_do_not_stay_neighbours() {
        let order = order(100_000, 9, 0);
        let near = order.windows(2).filter(|w| w[0].abs_diff(w[1]) < 100).count();
        assert!((100..320).contains(&near), "about 200 of 100,000 by chance, {near} here");
    }

    #[test]
    fn huge_ranges_need_no_memory() {
        let permutation = Permutation::new(1 << 61, 4, "test", 0);
        let mut seen: Vec<u64> = (0..1000).map(|i| permutation.at(i)).collect();
        assert!(seen.iter().all(|x| *x < 1 << 61));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }
}
