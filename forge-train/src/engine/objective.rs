//! Training objectives: language modelling with deep supervision and learned halting, and distillation.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::config::{CognateConfig, DataConfig};
use crate::data::Mix;
use crate::data::batch::{Batch, Batcher};
use crate::data::mix::Mixture;
use crate::data::source::BatchSource;
use crate::engine::prefetch::Prefetch;
use crate::engine::split::Split;
use crate::engine::trainer::{Objective, Shard};
use crate::error::{Error, Result};
use crate::nn::loss::TokenScore;
use crate::nn::{Dropout, Forward, ForwardOptions, Network, loss};

/// A batch's ids as the tensor the network takes, `(rows, cols)`; on the host, wherever the network is.
///
/// # Errors
/// If the tensor cannot be made.
pub fn batch_ids(batch: &Batch) -> Result<Tensor> {
    Ok(Tensor::from_slice(&batch.ids, (batch.rows, batch.cols), &Device::Cpu)?)
}

/// Next-token cross-entropy at every recursion (deep supervision) plus the halting head's target.
pub struct LanguageModel {
    source: Prefetch,
    supervision: Supervision,
    halts: bool,
    /// Rate and seed.
    dropout: Option<(f32, u64)>,
}

/// How the loss of a batch is put together.
#[derive(Clone, Debug, PartialEq)]
pub struct Supervision {
    /// Weight of each recursion's loss, last entry for the last; shorter lists are padded at the front.
    pub recursions: Vec<f32>,
    /// Weight of the halting head's binary cross-entropy.
    pub halt_weight: f32,
    /// A recursion counts as useful when it lowers the token's loss by more than this (nats).
    pub halt_margin: f32,
}

impl LanguageModel {
    /// Trains on the batches of `source` with the supervision of phase 1's configuration.
    pub fn new(source: Arc<dyn BatchSource>, cognate: &CognateConfig) -> Self {
        let supervision = Supervision {
            recursions: cognate.supervision.clone(),
            halt_weight: cognate.halt_weight,
            halt_margin: cognate.halt_margin,
        };
        Self::supervised(source, supervision)
    }

    /// Trains on the batches of `source`.
    pub fn supervised(source: Arc<dyn BatchSource>, supervision: Supervision) -> Self {
        Self { source: Prefetch::new(source), supervision, halts: true, dropout: None }
    }

    /// Runs every recursion of every token: for the first stage, in which later recursions have yet to become
    /// useful. A token that halts early there would never teach them.
    pub fn without_halting(mut self) -> Self {
        self.halts = false;
        self
    }

    /// Counts a recursion as useful from another gain on (nats).
    pub fn with_halt_margin(mut self, margin: f32) -> Self {
        self.supervision.halt_margin = margin;
        self
    }

    /// Drops elements at `rate`, 0 for none; masks follow from `seed`, the step and the part of its batch.
    pub fn with_dropout(mut self, rate: f32, seed: u64) -> Self {
        self.dropout = (rate > 0.0).then_some((rate, seed));
        self
    }

    /// What the forward pass of part `part` of step `step` does.
    fn options(&self, network: &Network, step: u64, part: u32) -> ForwardOptions {
        let dropout = self.dropout.map(|(rate, seed)| Dropout { rate, seed, step, part });
        ForwardOptions { halting: self.halts_at(network, step), dropout }
    }

    /// Every other step lets halted tokens really halt, so that the network learns to read the state they carry
    /// forward; the steps between run every recursion, so that the halting head sees what each gains.
    fn halts_at(&self, network: &Network, step: u64) -> bool {
        self.halts && network.config().halting && step % 2 == 1
    }

    /// Replaces the batches, keeping everything else.
    pub fn set_source(&mut self, source: Arc<dyn BatchSource>) {
        self.source = Prefetch::new(source);
    }
}

impl Objective for LanguageModel {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let supervision = &self.supervision;
        Ok(split
            .deal(&self.source.batch(step))
            .into_iter()
            .zip(0..)
            .map(|(batch, part)| {
                let options = self.options(network, step, part);
                Shard {
                    weight: batch.weights.iter().sum(),
                    tokens: batch.ids.len(),
                    work: Box::new(move |network| supervision.loss(network, &batch, options)),
                }
            })
            .collect())
    }
}

impl Supervision {
    fn loss(&self, network: &Network, batch: &Batch, options: ForwardOptions) -> Result<Tensor> {
        let forward = network.forward(&batch_ids(batch)?, options)?;
        self.of(network, &forward, batch, !options.halting)
    }

    /// Deep supervision, and the halting head's loss where `teach_halting` is set.
    fn of(&self, network: &Network, forward: &Forward, batch: &Batch, teach_halting: bool) -> Result<Tensor> {
        let recursions = forward.answers.len();
        let teach_halting = teach_halting && self.halt_weight > 0.0 && !forward.halt.is_empty();
        let (mut terms, mut scores) = (Vec::new(), Vec::new());
        for (t, answer) in forward.answers.iter().enumerate() {
            let ce = if teach_halting {
                let logits = network.logits(answer)?;
                scores.push(loss::token_scores(&logits, &batch.targets)?);
                loss::weighted_cross_entropy(&logits, &batch.targets, &batch.weights)?
            } else {
                network.cross_entropy(answer, &batch.targets, &batch.weights)?
            };
            terms.push((ce, supervision_weight(&self.recursions, t, recursions)));
        }
        let ce = weighted_mean(&terms)?;
        if !teach_halting {
            return Ok(ce);
        }
        let mut halting = Vec::new();
        for (t, logit) in forward.halt.iter().enumerate() {
            let targets = self.halting_targets(&scores[t], &scores[t + 1]);
            halting.push((loss::binary_cross_entropy(logit, &targets, &batch.weights)?, 1.0));
        }
        Ok((ce + (weighted_mean(&halting)? * f64::from(self.halt_weight))?)?)
    }
}

impl Supervision {
    /// 1 for each token that the next recursion gains less than the margin, 0 for those it is worth its while for.
    fn halting_targets(&self, now: &[TokenScore], next: &[TokenScore]) -> Vec<f32> {
        let enough = |gain: f32| if gain < self.halt_margin { 1.0 } else { 0.0 };
        now.iter().zip(next).map(|(now, next)| enough(now.loss - next.loss)).collect()
    }
}

/// `Σ wᵢ·tᵢ / Σ wᵢ` of scalar terms.
fn weighted_mean(terms: &[(Tensor, f32)]) -> Result<Tensor> {
    let total: f32 = terms.iter().map(|(_, w)| w).sum();
    let shares = terms.iter().map(|(term, weight)| Ok((term * f64::from(weight / total))?));
    shares
        .reduce(|sum, term: Result<Tensor>| Ok((sum? + term?)?))
        .unwrap_or_else(|| Err(Error::Config("a loss without terms".into())))
}

/// Weight of recursion `t` of `recursions`: the list's entries for the last recursions, its first entry before.
fn supervision_weight(list: &[f32], t: usize, recursions: usize) -> f32 {
    let missing = recursions.saturating_sub(list.len());
    let offset = list.len().saturating_sub(recursions);
    list.get((t + offset).saturating_sub(missing)).or(list.last()).copied().unwrap_or(1.0)
}

/// Cross-entropy on data blended with the KL divergence from a frozen teacher, on the same tokens.
pub struct Distillation {
    /// Supplies the batches and the data term.
    pub data: LanguageModel,
    /// The teacher, evaluated without a graph.
    pub teacher: Network,
    /// Share of the KL term in the loss.
    pub weight: f32,
}

impl Objective for Distillation {
    fn shards(&mut self, network: &Network, step: u64, split: Split) -> Result<Vec<Shard<'_>>> {
        let (supervision, teacher, weight) = (&self.data.supervision, &self.teacher, self.weight);
        let telling = ForwardOptions { halting: teacher.config().halting, ..Default::default() };
        Ok(split
            .deal(&self.data.source.batch(step))
            .into_iter()
            .zip(0..)
            .map(|(batch, part)| {
                let (options, shard) = (self.data.options(network, step, part), batch.weights.iter().sum());
                let tokens = batch.ids.len();
                let work = move |network: &Network| {
                    let ids = batch_ids(&batch)?;
                    let told = teacher.logits(teacher.forward(&ids, telling)?.answer())?;
                    let forward = network.forward(&ids, options)?;
                    let kl = loss::kl(&network.logits(forward.answer())?, &told, &batch.weights, 1.0)?;
                    let data = supervision.of(network, &forward, &batch, !options.halting)?;
                    Ok(((kl * f64::from(weight))? + (data * f64::from(1.0 - weight))?)?)
                };
                Shard { weight: shard, tokens, work: Box::new(work) }
            })
            .collect())
    }
}

/// Batches of sequences with the sizes of the configuration; those of several sources in turn, by weight. A source
/// without sequences takes no part.
///
/// # Errors
/// [`Error::Usage`] for weights that cannot be mixed.
pub fn batcher(
    mix: impl Into<Mix>,
    batch_tokens: usize,
    data: &DataConfig,
    seed: u64,
    label: &str,
) -> Result<Arc<dyn BatchSource>> {
    let Mix(mut sources) = mix.into();
    if sources.len() > 1 {
        sources.retain(|(_, sequences)| (0..sequences.len()).any(|i| sequences.tokens(i) > 1));
    }
    let batches = |(at, (weight, sequences)): (usize, (u64, _))| {
        // The first source has the label that a single one has.
        let label = if at == 0 { label.to_owned() } else { format!("{label} source {at}") };
        let batches = Batcher::new(sequences, batch_tokens, data.max_len, seed, &label);
        (Arc::new(batches) as Arc<dyn BatchSource>, weight)
    };
    let mut batches: Vec<_> = sources.into_iter().enumerate().map(batches).collect();
    match batches.len() {
        1 => Ok(batches.remove(0).0),
        _ => Ok(Arc::new(Mixture::new(batches)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};
    use crate::data::{Sequence, Sequences};

    /// Each batch is of one source; those without a sequence of two tokens take no part.
    #[test]
    fn sources_take_turns_by_weight() {
        let source = |id: u16, weight: u64, len: usize| {
            let sequence = Sequence { ids: vec![id; len], weights: vec![1.0; len] };
            (weight, Arc::new(vec![sequence; 50]) as Arc<dyn Sequences>)
        };
        let mix = Mix(vec![source(7, 3, 9), source(8, 5, 1), source(9, 1, 9)]);
        let data = Config::preset(Preset::Nano).data;
        let batches = batcher(mix, 64, &data, 1, "test").unwrap();
        let ids: Vec<u32> = (0..80).map(|step| batches.batch(step).ids[0]).collect();
        assert!(ids.chunks(4).all(|turn| turn.iter().filter(|id| **id == 7).count() == 3), "{ids:?}");
        assert_eq!(ids.iter().filter(|id| **id == 9).count(), 20);
    }

    #[test]
    fn a_token_halts_when_the_next_recursion_gains_less_than_the_margin() {
        let supervision =
            |halt_margin: f32| Supervision { recursions: vec![], halt_weight: 0.1, halt_margin };
        let scores = |losses: [f32; 4]| losses.map(|loss| TokenScore { loss, correct: false });
        // Gains of 0.5, 0.01, 0 and −1 nats.
        let (now, next) = (scores([2.0, 1.0, 1.0, 1.0]), scores([1.5, 0.99, 1.0, 2.0]));
        assert_eq!(supervision(0.005).halting_targets(&now, &next), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(supervision(0.1).halting_targets(&now, &next), [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(supervision(1.0).halting_targets(&now, &next), [1.0; 4]);
        let source = Arc::new(batcher_of_one());
        let cognate = Config::preset(Preset::Nano).phase1;
        let objective = LanguageModel::new(source, &cognate).with_halt_margin(0.25);
        assert_eq!(objective.supervision.halt_margin, 0.25);
    }

    fn batcher_of_one() -> crate::data::batch::Batcher {
        let sequence = Sequence { ids: vec![1; 9], weights: vec![1.0; 9] };
        crate::data::batch::Batcher::new(Arc::new(vec![sequence]), 64, 16, 1, "one")
    }

    #[test]
    fn supervision_lists_align_at_the_last_recursion() {
        assert_eq!(supervision_weight(&[0.5, 1.0], 0, 2), 0.5);
        assert_eq!(supervision_weight(&[0.5, 1.0], 1, 2), 1.0);
        assert_eq!(supervision_weight(&[0.5, 1.0], 0, 1), 1.0);
        assert_eq!(supervision_weight(&[0.5, 1.0], 0, 3), 0.5);
        assert_eq!(supervision_weight(&[0.5, 1.0], 1, 3), 0.5);
        assert_eq!(supervision_weight(&[0.5, 1.0], 2, 3), 1.0);
        assert_eq!(supervision_weight(&[], 0, 2), 1.0);
    }
}
