//! The three figures every measurement is reported by.

use serde::Serialize;

/// Median and range of some measurements. The median because other programs only ever slow a run down.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there were.
    pub samples: usize,
}

impl Summary {
    /// Of at least one measurement; `None` of none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: low.midpoint(high), min, max, samples: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let summary = Summary::of(&[4.0, 1.0, 100.0, 2.0]).expect("there are four");
        assert_eq!(summary, Summary { median: 3.0, min: 1.0, max: 100.0, samples: 4 });
        assert_eq!(Summary::of(&[5.0]).map(|s| s.median), Some(5.0));
        assert_eq!(Summary::of(&[]), None);
    }
}
