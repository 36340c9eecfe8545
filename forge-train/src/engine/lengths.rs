//! A curriculum of lengths: short sequences first, at as many tokens a batch.
//!
//! Attention, the memory and the answers of a short sequence are cheaper to learn. Which batches a step takes follows from
//! its number alone, so that a run that is resumed goes on where it was.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{DataConfig, LengthStage};
use crate::data::batch::Batch;
use crate::data::source::BatchSource;
use crate::data::{Mix, Sequence, Sequences};
use crate::engine::objective::batcher;
use crate::error::Result;

/// The sequences of a list that are short enough.
struct Short {
    all: Arc<dyn Sequences>,
    /// Which they are, in order; four bytes each, for as long as the curriculum lasts.
    kept: Vec<u32>,
}

impl Short {
    /// Those of `all` with at most `max_len` tokens, or all of them where there are none: they are then cut.
    fn of(all: &Arc<dyn Sequences>, max_len: usize) -> Arc<dyn Sequences> {
        let fits = |index: &u32| (2..=max_len).contains(&all.tokens(*index as usize));
        let kept: Vec<u32> = (0..all.len() as u32).filter(fits).collect();
        match kept.is_empty() {
            true => all.clone(),
            false => Arc::new(Self { all: all.clone(), kept }),
        }
    }
}

impl Sequences for Short {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn tokens(&self, index: usize) -> usize {
        self.all.tokens(self.kept[index] as usize)
    }

    fn get(&self, index: usize) -> Cow<'_, Sequence> {
        self.all.get(self.kept[index] as usize)
    }
}

/// Sources one after the other.
struct Staged {
    /// The step before which each ends, and the source; the last one goes on.
    stages: Vec<(u64, Arc<dyn BatchSource>)>,
    last: Arc<dyn BatchSource>,
}

impl BatchSource for Staged {
    fn batch(&self, step: u64) -> Batch {
        let mut begun = 0;
        for (end, source) in &self.stages {
            if step < *end {
                return source.batch(step - begun);
            }
            begun = *end;
        }
        self.last.batch(step - begun)
    }
}

/// As [`batcher`], through the stages of `curriculum` over `steps` steps; stages as long as `data.max_len` or longer are
/// what comes after them anyway.
///
/// # Errors
/// As [`batcher`].
pub fn staged(
    mix: Mix,
    batch_tokens: usize,
    data: &DataConfig,
    [seed, steps]: [u64; 2],
    label: &str,
    curriculum: &[LengthStage],
) -> Result<Arc<dyn BatchSource>> {
    let mut stages = Vec::new();
    for LengthStage { until, max_len } in curriculum.iter().filter(|stage| stage.max_len < data.max_len) {
        let short = mix.0.iter().map(|(weight, all)| (*weight, Short::of(all, *max_len))).collect();
        let cut = DataConfig { max_len: *max_len, ..data.clone() };
        let source = batcher(Mix(short), batch_tokens, &cut, seed, &format!("{label} length {max_len}"))?;
        stages.push(((f64::from(*until) * steps as f64).round() as u64, source));
    }
    let last = batcher(mix, batch_tokens, data, seed, label)?;
    Ok(if stages.is_empty() { last } else { Arc::new(Staged { stages, last }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};

    const STEPS: u64 = 40;

    fn stage(until: f32, max_len: usize) -> LengthStage {
        LengthStage { until, max_len }
    }

    /// Sequences of 3 to 62 tokens, each of its own length's id.
    fn mix(lengths: impl Iterator<Item = usize>) -> Mix {
        let sequence = |len: usize| Sequence { ids: vec![len as u16; len], weights: vec![1.0; len] };
        Mix(vec![(1, Arc::new(lengths.map(sequence).collect::<Vec<_>>()) as Arc<dyn Sequences>)])
    }

    fn source(mix: Mix, curriculum: &[LengthStage]) -> Arc<dyn BatchSource> {
        let data = Config::preset(Preset::Nano).data;
        staged(mix, 256, &data, [7, STEPS], "trunk", curriculum).unwrap()
    }

    fn longest(batch: &Batch) -> u32 {
        *batch.ids.iter().max().unwrap()
    }

    #[test]
    fn short_sequences_come_first_at_as_many_tokens() {
        let curriculum = [stage(0.25, 16), stage(0.5, 32)];
        let staged = source(mix((3..63).cycle().take(600)), &curriculum);
        for step in 0..STEPS {
            let batch = staged.batch(step);
            let most = if step < 10 {
                16
            } else if step < 20 {
                32
            } else {
                62
            };
            assert!(longest(&batch) <= most, "step {step}: {}", longest(&batch));
            assert!(
                (128..=256).contains(&(batch.rows * batch.cols)),
                "step {step}: {}",
                batch.rows * batch.cols
            );
        }
        let late = (20..STEPS).map(|step| longest(&staged.batch(step))).max();
        assert!(late > Some(32), "long ones come at last");
        let plain = source(mix((3..63).cycle().take(600)), &[]);
        assert!(
            (0..10).any(|step| longest(&plain.batch(step)) > 16),
            "without a curriculum they come at once"
        );
    }

    #[test]
    fn a_step_is_all_that_its_batch_depends_on() {
        let curriculum = [stage(0.25, 16), stage(0.5, 32)];
        let make = || source(mix((3..63).cycle().take(600)), &curriculum);
        let whole = make();
        let in_order: Vec<Batch> = (0..STEPS).map(|step| whole.batch(step)).collect();
        let resumed = make();
        for step in (5..STEPS).rev().chain(0..5) {
            assert_eq!(resumed.batch(step), in_order[step as usize], "step {step}");
        }
        assert_ne!(in_order[0], in_order[10]);
    }

    #[test]
    fn the_last_stage_takes_the_batches_of_a_run_without_a_curriculum() {
        let sequences = || mix((3..63).cycle().take(600));
        let (staged, plain) = (source(sequences(), &[stage(0.5, 16)]), source(sequences(), &[]));
        assert!((0..10).all(|step| staged.batch(20 + step) == plain.batch(step)));
        // Longer than any sequence may be: no curriculum.
        let idle = source(sequences(), &[stage(0.5, 4096)]);
        assert!((0..STEPS).all(|step| idle.batch(step) == plain.batch(step)));
    }

    #[test]
    fn sources_without_short_sequences_are_cut() {
        let staged = source(mix(std::iter::repeat_n(60, 50)), &[stage(0.5, 16)]);
        assert_eq!((staged.batch(0).cols, staged.batch(30).cols), (16, 64));
    }
}
