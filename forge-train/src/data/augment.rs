//! Slot-value augmentation: a call's value is swapped, in prompt and call, for another training value of the same
//! slot, so that copying is learned rather than the values.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::permutation::mix;
use super::store::Store;
use super::{Completion, Example};
use crate::error::Result;
use crate::rng::Rng;

/// A slot's values are swapped only when more than this many different ones are known.
const MIN_POOL: usize = 20;
/// Values of a slot that are kept at most: of more, those whose hash is smallest.
const MAX_POOL: usize = 1 << 14;
/// Examples that are varied side by side.
const AHEAD: usize = 4096;

/// Swaps slot values among those of the training examples it was made from.
#[derive(Clone, Debug)]
pub struct Augmenter {
    pools: BTreeMap<String, Vec<String>>,
    probability: f32,
    seed: u64,
}

impl Augmenter {
    /// Collects the values of every slot. Each eligible value is swapped with `probability`.
    pub fn new<'a>(train: impl Iterator<Item = Cow<'a, Example>>, probability: f32, seed: u64) -> Self {
        let mut values: BTreeMap<String, BTreeSet<(u64, String)>> = BTreeMap::new();
        for example in train {
            if let Completion::Tool { args, .. } = &example.completion {
                for (slot, value) in args {
                    keep(values.entry(slot.clone()).or_default(), value);
                }
            }
        }
        let large = values.into_iter().filter(|(_, pool)| pool.len() > MIN_POOL);
        let sorted = |pool: BTreeSet<(u64, String)>| {
            let mut pool: Vec<String> = pool.into_iter().map(|(_, value)| value).collect();
            pool.sort_unstable();
            pool
        };
        let pools = large.map(|(slot, pool)| (slot, sorted(pool))).collect();
        Self { pools, probability, seed }
    }

    /// The example of `index` in `epoch`, a pure function of both and the seed. Values are swapped only where they
    /// occur exactly once in the prompt, as whole words.
    pub fn apply(&self, example: &Example, epoch: u64, index: usize) -> Example {
        let mut out = example.clone();
        let Completion::Tool { args, .. } = &mut out.completion else { return out };
        let mut rng = Rng::new(self.seed, &["augment", &epoch.to_string(), &index.to_string()]);
        for i in 0..args.len() {
            let Some(pool) = self.pools.get(&args[i].0) else { continue };
            if !rng.chance(self.probability) {
                continue;
            }
            let new = rng.pick(pool).clone();
            let others = || args.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, (_, value))| value);
            // A value inside another one, or equal to it, would be torn out of it.
            if others().any(|other| other.contains(&args[i].1)) {
                continue;
            }
            if let Some(at) = only_occurrence(&out.prompt, &args[i].1) {
                out.prompt.replace_range(at..at + args[i].1.len(), &new);
                args[i].1 = new;
            }
        }
        out
    }

    /// `copies` passes over the examples, the first unchanged, the others augmented.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] when what is too large for memory cannot be written.
    pub fn expand(&self, examples: &Store<Example>, copies: u64) -> Result<Store<Example>> {
        let mut out = examples.writer();
        for epoch in 0..copies {
            for from in (0..examples.len()).step_by(AHEAD) {
                let vary = |i: usize| match epoch {
                    0 => examples.get(i).into_owned(),
                    _ => self.apply(&examples.get(i), epoch, i),
                };
                let ahead = from..examples.len().min(from + AHEAD);
                out.extend(ahead.into_par_iter().map(vary).collect::<Vec<Example>>())?;
            }
        }
        out.finish()
    }
}

/// Adds a value to a pool of at most [`MAX_POOL`].
fn keep(pool: &mut BTreeSet<(u64, String)>, value: &str) {
    let hash = value.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)).wrapping_add(1));
    if pool.len() < MAX_POOL || pool.last().is_some_and(|(largest, _)| hash < *largest) {
        pool.insert((hash, value.to_owned()));
    }
    if pool.len() > MAX_POOL {
        pool.pop_last();
    }
}

/// Where `value` stands in `prompt`, when it does so exactly once and with no letter or digit beside it.
fn only_occurrence(prompt: &str, value: &str) -> Option<usize> {
    let at = prompt.find(value).filter(|_| !value.is_empty())?;
    let joined = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let before = prompt[..at].chars().next_back();
    let after = prompt[at + value.len()..].chars().next();
    let first = value.chars().next()?.len_utf8();
    let again = prompt[at + first..].contains(value);
    (!joined(before) && !joined(after) && !again).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Slice;

    fn call(prompt: &str, args: &[(&str, &str)]) -> Example {
        let args = args.iter().map(|(s, v)| (s.to_string(), v.to_string())).collect();
        let completion = Completion::Tool { tool: "play".into(), args };
        Example { system: None, prompt: prompt.into(), completion, slice: Slice::Tool, level: 0 }
    }

    fn pool() -> Vec<Example> {
        (0..30).map(|i| call(&format!("play song{i}x"), &[("song", &format!("song{i}x"))])).collect()
    }

    fn augmenter(probability: f32) -> Augmenter {
        Augmenter::new(pool().iter().map(Cow::Borrowed), probability, 7)
    }

    #[test]
    fn prompt_and_call_change_together_and_the_same_way_each_time() {
        let example = call("play yellow river now", &[("song", "yellow river")]);
        let once = augmenter(1.0).apply(&example, 3, 5);
        assert_eq!(once, augmenter(1.0).apply(&example, 3, 5));
        let Completion::Tool { args, .. } = &once.completion else { panic!("still a call") };
        assert!(args[0].1.starts_with("song"), "swapped for a value of the pool");
        assert_eq!(once.prompt, format!("play {} now", args[0].1));
        assert_ne!(augmenter(1.0).apply(&example, 4, 5), once, "another epoch, another value");
    }

    #[test]
    fn values_that_begin_with_several_bytes_are_found() {
        let example = call("play my éxitos españa playlist", &[("song", "éxitos españa")]);
        let out = augmenter(1.0).apply(&example, 1, 0);
        assert!(
            out.prompt.starts_with("play my song") && out.prompt.ends_with("x playlist"),
            "{}",
            out.prompt
        );
        let twice = call("play éé now", &[("song", "é")]);
        assert_eq!(augmenter(1.0).apply(&twice, 1, 0), twice, "not a whole word, and twice");
    }

    #[test]
    fn ambiguous_values_stay() {
        for (prompt, args) in [
            ("play river river", vec![("song", "river")]),
            ("play rivers", vec![("song", "river")]),
            ("play one", vec![("unknown", "one")]),
            ("play river by river band", vec![("song", "river"), ("unknown", "river band")]),
            ("play nothing", vec![("song", "river")]),
        ] {
            let example = call(prompt, &args);
            assert_eq!(augmenter(1.0).apply(&example, 1, 1), example, "{prompt}");
        }
    }

    #[test]
    fn small_pools_and_probability_zero_change_nothing() {
        let example = call("play yellow river", &[("song", "yellow river")]);
        assert_eq!(augmenter(0.0).apply(&example, 1, 1), example);
        let small = Augmenter::new(pool()[..MIN_POOL].iter().map(Cow::Borrowed), 1.0, 7);
        assert_eq!(small.apply(&example, 1, 1), example);
    }

    /// Of more values than a pool keeps, an even sample is kept, whatever the order they come in.
    #[test]
    fn pools_are_bounded() {
        let values: Vec<String> = (0..3 * MAX_POOL).map(|i| i.to_string()).collect();
        let (mut forward, mut backward) = (BTreeSet::new(), BTreeSet::new());
        values.iter().for_each(|value| keep(&mut forward, value));
        values.iter().rev().for_each(|value| keep(&mut backward, value));
        assert_eq!(forward.len(), MAX_POOL);
        assert!(forward == backward);
        let early = forward.iter().filter(|(_, v)| v.parse::<usize>().unwrap() < MAX_POOL).count();
        assert!((MAX_POOL / 4..MAX_POOL / 2).contains(&early), "about a third: {early}");
    }

    #[test]
    fn about_the_stated_share_is_swapped() {
        let examples = pool();
        let swapped = (1..=20).flat_map(|epoch| {
            let augmenter = augmenter(0.5);
            examples
                .iter()
                .enumerate()
                .map(move |(i, e)| augmenter.apply(e, epoch, i) != *e)
                .collect::<Vec<_>>()
        });
        let rate = swapped.filter(|s| *s).count() as f64 / 600.0;
        assert!((0.40..0.57).contains(&rate), "{rate}");
    }
}
