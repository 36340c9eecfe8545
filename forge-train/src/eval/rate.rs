//! A measured proportion with its confidence interval.

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Hits among trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Successes.
    pub hits: usize,
    /// Trials.
    pub n: usize,
}

/// The normal quantile of a two-sided 95 % interval.
const Z95: f64 = 1.959_963_984_540_054;

impl Rate {
    /// Counts the hits.
    pub fn of(trials: impl IntoIterator<Item = bool>) -> Self {
        trials
            .into_iter()
            .fold(Self::default(), |r, hit| Self { hits: r.hits + usize::from(hit), n: r.n + 1 })
    }

    /// The proportion; 0 without trials.
    pub fn value(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.hits as f64 / self.n as f64 }
    }

    /// The 95 % score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209); `[0, 1]` without trials.
    pub fn interval(&self) -> [f64; 2] {
        if self.n == 0 {
            return [0.0, 1.0];
        }
        let (n, p) = (self.n as f64, self.value());
        let z2 = Z95 * Z95;
        let centre = p + z2 / (2.0 * n);
        let spread = Z95 * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        // At the ends the exact bounds are 0 and 1; rounding must not move them.
        let low = if self.hits == 0 { 0.0 } else { (centre - spread) / scale };
        let high = if self.hits == self.n { 1.0 } else { (centre + spread) / scale };
        [low, high]
    }

    /// How far above guessing among equally likely choices: 0 at `chance`, 1 when all are hits.
    pub fn above_chance(&self, chance: f64) -> f64 {
        (self.value() - chance) / (1.0 - chance)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [low, high] = self.interval();
        let mut s = serializer.serialize_struct("Rate", 5)?;
        s.serialize_field("value", &self.value())?;
        s.serialize_field("low", &low)?;
        s.serialize_field("high", &high)?;
        s.serialize_field("hits", &self.hits)?;
        s.serialize_field("n", &self.n)?;
        s.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(rate: Rate, low: f64, high: f64) {
        let [l, h] = rate.interval();
        assert!((l - low).abs() < 5e-5 && (h - high).abs() < 5e-5, "{rate:?}: [{l}, {h}]");
    }

    /// Values of Newcombe 1998, Statist. Med. 17:857, table I, method 3.
    #[test]
    fn wilson_interval_has_the_published_values() {
        close(Rate { hits: 81, n: 263 }, 0.2553, 0.3662);
        close(Rate { hits: 15, n: 148 }, 0.0624, 0.1605);
        close(Rate { hits: 0, n: 20 }, 0.0, 0.1611);
        close(Rate { hits: 1, n: 29 }, 0.0061, 0.1718);
    }

    #[test]
    fn ends_are_exact_and_no_trials_say_nothing() {
        assert_eq!(Rate { hits: 9, n: 9 }.interval()[1], 1.0);
        assert_eq!(Rate { hits: 0, n: 9 }.interval()[0], 0.0);
        assert_eq!(Rate::default().interval(), [0.0, 1.0]);
        assert_eq!(Rate::default().value(), 0.0);
    }

    #[test]
    fn chance_correction() {
        assert!(Rate { hits: 25, n: 100 }.above_chance(0.25).abs() < 1e-12);
        assert!((Rate { hits: 100, n: 100 }.above_chance(0.25) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn serialises_with_its_interval() {
        let json = serde_json::to_value(Rate::of([true, false, true, true])).unwrap();
        assert_eq!(json["value"], 0.75);
        assert_eq!(json["n"], 4);
        assert!(json["low"].as_f64().unwrap() < 0.75 && json["high"].as_f64().unwrap() > 0.75);
    }
}
