//! Two files on the same rows: is the difference more than chance?

use serde::Serialize;

use super::estimate::Estimate;

/// How often one of two models alone was right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Rows.
    pub n: usize,
    /// Rows that the first alone has right.
    pub first_only: usize,
    /// Rows that the second alone has right.
    pub second_only: usize,
    /// Accuracy of the first less that of the second, with its 95 % interval by the bootstrap over rows.
    pub difference: Estimate,
    /// Two-sided p-value of McNemar's exact test: how likely so uneven a split of the rows they differ on would be if
    /// neither were better.
    pub p: f64,
}

impl Paired {
    /// Compares the verdicts of two models on the same rows.
    ///
    /// # Panics
    /// If the lists differ in length.
    pub fn of(first: &[bool], second: &[bool]) -> Self {
        assert_eq!(first.len(), second.len(), "the same rows");
        let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
        let (first_only, second_only) = (only(first, second), only(second, first));
        let value = |hit: &bool| f64::from(u8::from(*hit));
        let parts: Vec<(f64, f64)> =
            first.iter().zip(second).map(|(a, b)| (value(a) - value(b), 1.0)).collect();
        let difference = Estimate::of_ratio(&parts);
        Self { n: first.len(), first_only, second_only, difference, p: mcnemar(first_only, second_only) }
    }
}

/// Two-sided exact p-value of `a` against `b` fair coin tosses (McNemar 1947, Psychometrika 12:153).
fn mcnemar(a: usize, b: usize) -> f64 {
    let n = a + b;
    // ln C(n, k), step by step; 2⁻ⁿ stays in the exponent.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=a.min(b) {
        tail += ln_term.exp();
        ln_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of R's `binom.test(c(a, b))`.
    #[test]
    fn p_values_are_the_binomials() {
        for ((a, b), p) in [
            ((0, 0), 1.0),
            ((1, 0), 1.0),
            ((5, 5), 1.0),
            ((0, 5), 0.0625),
            ((2, 8), 0.109375),
            ((10, 1), 0.01171875),
        ] {
            assert!((mcnemar(a, b) - p).abs() < 1e-12, "{a} {b}: {}", mcnemar(a, b));
            assert_eq!(mcnemar(a, b), mcnemar(b, a));
        }
        assert!(mcnemar(900, 1100) < 1e-4 && mcnemar(990, 1010) > 0.5, "large counts do not underflow");
    }

    #[test]
    fn a_difference_is_told_from_none() {
        let first: Vec<bool> = (0..400).map(|i| i % 10 < 6).collect();
        let worse: Vec<bool> = (0..400).map(|i| i % 10 < 5).collect();
        let paired = Paired::of(&first, &worse);
        assert_eq!((paired.n, paired.first_only, paired.second_only), (400, 40, 0));
        assert!(
            (paired.difference.value - 0.1).abs() < 1e-12 && paired.difference.low > 0.0 && paired.p < 1e-9
        );
        let mixed: Vec<bool> = (0..400).map(|i| (i + 3) % 10 < 6).collect();
        let even = Paired::of(&first, &mixed);
        assert!(even.p > 0.9 && even.difference.low < 0.0 && even.difference.high > 0.0, "{even:?}");
    }
}
