//! Several sources mixed by weight.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::batch::Batch;
use super::source::BatchSource;
use crate::error::{Error, Result};

/// Largest sum of weights, after their common divisor is taken out: a window's length.
const MAX_WINDOW: usize = 10_000;

/// Batches from several sources. Of every window of steps as long as the sum of the weights, each source gives exactly
/// its weight, spread evenly; a source is asked for its batches in turn, whatever the others give.
///
/// Shares are shares of batches, so sources should have batches of about as many tokens.
pub struct Mixture {
    sources: Vec<(Arc<dyn BatchSource>, u64)>,
    /// The source of each step of a window, and how many of the window it has given before.
    window: Vec<(usize, u64)>,
}

impl Mixture {
    /// Mixes sources by weight.
    ///
    /// # Errors
    /// [`Error::Usage`] without a source, for a weight of 0, or for weights whose window is longer than 10,000 steps.
    pub fn new(sources: Vec<(Arc<dyn BatchSource>, u64)>) -> Result<Self> {
        let weights = reduced(&sources.iter().map(|(_, weight)| *weight).collect::<Vec<u64>>())?;
        let window = spread(&weights);
        let sources = sources.into_iter().map(|(source, _)| source).zip(weights).collect();
        Ok(Self { sources, window })
    }
}

impl BatchSource for Mixture {
    fn batch(&self, step: u64) -> Batch {
        let window = self.window.len() as u64;
        let (source, before) = self.window[(step % window) as usize];
        let (source, weight) = &self.sources[source];
        source.batch(step / window * weight + before)
    }
}

/// Weights without their common divisor.
///
/// # Errors
/// [`Error::Usage`] as [`Mixture::new`].
pub fn reduced(weights: &[u64]) -> Result<Vec<u64>> {
    let usage = |what: String| Error::Usage {
        what,
        hint: "give each source a small whole number as weight, such as a.jsonl:2 b.txt:1".into(),
    };
    if weights.is_empty() || weights.contains(&0) {
        return Err(usage("a mixture needs sources of weights above 0".into()));
    }
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight));
    let weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let total = weights.iter().fold(0u64, |sum, weight| sum.saturating_add(*weight));
    if total > MAX_WINDOW as u64 {
        return Err(usage(format!(
            "weights whose sum is {total} make a window of so many steps; the most is {MAX_WINDOW}"
        )));
    }
    Ok(weights)
}

/// A window's order: the `k`-th turn of a source of weight `w` falls due at `(k + ½) / w` of it; among equals the earlier
/// source comes first. So any part of a window has each source's share to within one or two turns.
fn spread(weights: &[u64]) -> Vec<(usize, u64)> {
    let mut turns: Vec<(usize, u64)> = weights
        .iter()
        .enumerate()
        .flat_map(|(source, weight)| (0..*weight).map(move |k| (source, k)))
        .collect();
    // (2a + 1) / 2v against (2b + 1) / 2w, without division.
    turns.sort_by(|(s, a), (t, b)| {
        let due = |k: u64, other: u64| (2 * k + 1) * other;
        due(*a, weights[*t]).cmp(&due(*b, weights[*s])).then(s.cmp(t))
    });
    turns
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A file with its weight, as written on a command line: `PATH` or `PATH:WEIGHT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The file.
    pub path: PathBuf,
    /// Its weight; 1 where none is given.
    pub weight: u64,
}

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let whole = |text: &str| Self { path: text.into(), weight: 1 };
        match text.rsplit_once(':') {
            // A colon may be part of a name; what looks like a number behind it is meant as a weight.
            Some((path, weight)) if !path.is_empty() && is_number(weight) => match weight.parse() {
                Ok(weight @ 1..) => Ok(Self { path: path.into(), weight }),
                _ => Err(format!("`{weight}` is no weight; expected a whole number from 1")),
            },
            _ => Ok(whole(text)),
        }
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']);
    digits.is_empty()
        || (digits.starts_with(|c: char| c == '.' || c.is_ascii_digit()) && text.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its name and the step it is asked for.
    struct Named(u32);

    impl BatchSource for Named {
        fn batch(&self, step: u64) -> Batch {
            let (ids, targets) = (vec![self.0], vec![step as u32]);
            Batch { ids, targets, weights: vec![1.0], rows: 1, cols: 1 }
        }
    }

    fn mixture(weights: &[u64]) -> Result<Mixture> {
        let source =
            |(name, weight): (usize, &u64)| (Arc::new(Named(name as u32)) as Arc<dyn BatchSource>, *weight);
        Mixture::new(weights.iter().enumerate().map(source).collect())
    }

    fn given(mixture: &Mixture, steps: std::ops::Range<u64>) -> Vec<(u32, u32)> {
        steps.map(|step| mixture.batch(step)).map(|batch| (batch.ids[0], batch.targets[0])).collect()
    }

    #[test]
    fn shares_are_exact_over_any_window() {
        for weights in [vec![1], vec![2, 1], vec![5, 3, 1], vec![7, 7, 2], vec![1, 99]] {
            let mixture = mixture(&weights).unwrap();
            let total: u64 = weights.iter().sum();
            for from in [0, 1, 5 * total + 3] {
                let window = given(&mixture, from..from + total);
                for (source, weight) in weights.iter().enumerate() {
                    let count = window.iter().filter(|(s, _)| *s == source as u32).count();
                    assert_eq!(count as u64, *weight, "{weights:?} from {from}");
                }
            }
        }
    }

    #[test]
    fn every_source_is_asked_for_all_its_batches_in_turn() {
        let mixture = mixture(&[3, 2]).unwrap();
        for source in [0, 1] {
            let steps: Vec<u32> =
                given(&mixture, 0..50).iter().filter(|(s, _)| *s == source).map(|(_, step)| *step).collect();
            assert!(steps.iter().copied().eq(0..steps.len() as u32), "{steps:?}");
        }
        assert_eq!(
            given(&mixture, 30..50),
            given(&mixture, 0..50)[30..],
            "a step is all that resuming needs"
        );
    }

    #[test]
    fn turns_are_spread() {
        let order = |weights: &[u64]| spread(weights).into_iter().map(|(s, _)| s).collect::<Vec<_>>();
        assert_eq!(order(&[2, 1]), [0, 1, 0]);
        assert_eq!(order(&[1, 4]), [1, 1, 0, 1, 1]);
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
    }

    #[test]
    fn weights_are_reduced_and_checked() {
        assert_eq!(mixture(&[4000, 6000]).unwrap().window.len(), 5);
        for weights in [&[][..], &[0], &[1, 0], &[10_000, 1], &[u64::MAX, 1]] {
            let refused = mixture(weights).err().expect("no mixture");
            assert!(refused.hint().is_some(), "{weights:?}");
        }
    }

    #[test]
    fn files_come_with_weights() {
        let parse = |text: &str| text.parse::<Weighted>().map(|w| (w.path.display().to_string(), w.weight));
        assert_eq!(parse("a.jsonl"), Ok(("a.jsonl".into(), 1)));
        assert_eq!(parse("a.jsonl:12"), Ok(("a.jsonl".into(), 12)));
        assert_eq!(parse("C:\\a.txt"), Ok(("C:\\a.txt".into(), 1)));
        assert_eq!(parse("a:b:3"), Ok(("a:b".into(), 3)));
        assert_eq!(parse("a:b"), Ok(("a:b".into(), 1)));
        assert_eq!(parse("12:30 notes.txt"), Ok(("12:30 notes.txt".into(), 1)));
        for bad in ["a:0", "a:", "a:-1", "a:1.5", "a:1e3", "a:99999999999999999999"] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("expected a whole number from 1"), "{error}");
        }
    }
}
