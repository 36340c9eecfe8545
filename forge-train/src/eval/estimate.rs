//! A measured ratio with its confidence interval, by the bootstrap.

use rayon::prelude::*;
use serde::Serialize;

use crate::rng::Rng;

/// Resamples of a bootstrap.
const RESAMPLES: u64 = 2000;

/// A figure with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// `Σ numerator / Σ denominator` over independent parts (blocks of a text, examples), with the percentile interval of
    /// the bootstrap over the parts (Efron & Tibshirani 1993, chapter 13). A pure function of the parts. Without parts
    /// nothing is known: 0 in `[−∞, ∞]`.
    pub fn of_ratio(parts: &[(f64, f64)]) -> Self {
        if parts.is_empty() {
            return Self { value: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY };
        }
        let ratio = |sum: (f64, f64)| sum.0 / sum.1.max(f64::MIN_POSITIVE);
        let add = |a: (f64, f64), b: &(f64, f64)| (a.0 + b.0, a.1 + b.1);
        let mut resampled: Vec<f64> = (0..RESAMPLES)
            .into_par_iter()
            .map(|resample| {
                let mut rng = Rng::at_step(0, "bootstrap", resample);
                ratio((0..parts.len()).fold((0.0, 0.0), |sum, _| add(sum, rng.pick(parts))))
            })
            .collect();
        resampled.sort_by(f64::total_cmp);
        let quantile = |q: f64| resampled[((RESAMPLES - 1) as f64 * q).round() as usize];
        let value = ratio(parts.iter().fold((0.0, 0.0), add));
        Self { value, low: quantile(0.025), high: quantile(0.975) }
    }

    /// The same figure in another unit.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { value: self.value * factor, low: self.low * factor, high: self.high * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means of normal samples: 95 of 100 intervals should hold the true mean. Binomial, 200 trials: within 88 to 99 %.
    #[test]
    fn intervals_cover_as_often_as_they_say() {
        let covers = |trial: u64, width: f64| {
            let mut rng = Rng::at_step(1, "coverage", trial);
            let parts: Vec<(f64, f64)> = (0..60).map(|_| (3.0 + f64::from(rng.normal()), 1.0)).collect();
            let e = Estimate::of_ratio(&parts);
            let spread = width * (e.high - e.low) / 2.0;
            (e.value - spread..e.value + spread).contains(&3.0)
        };
        let rate = |width: f64| (0..200).filter(|t| covers(*t, width)).count() as f64 / 200.0;
        assert!((0.88..0.99).contains(&rate(1.0)), "{}", rate(1.0));
        assert!(rate(0.5) < 0.80, "half the interval must be seen to cover too little: {}", rate(0.5));
    }

    #[test]
    fn ratios_weigh_parts_by_their_denominator() {
        let parts = [(1.0, 1.0), (30.0, 10.0)];
        assert!((Estimate::of_ratio(&parts).value - 31.0 / 11.0).abs() < 1e-12);
        let same = Estimate::of_ratio(&[(2.0, 4.0); 9]);
        assert_eq!([same.value, same.low, same.high], [0.5; 3]);
        assert_eq!(Estimate::of_ratio(&parts), Estimate::of_ratio(&parts));
        assert_eq!(Estimate::of_ratio(&[]).high, f64::INFINITY);
        assert_eq!(same.times(2.0).high, 1.0);
    }
}
