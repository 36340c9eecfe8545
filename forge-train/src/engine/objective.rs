//! Training objectives: language modelling with deep supervision and learned halting, and distillation.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::config::{CognateConfig, DataConfig};
use crate::data::batch::{Batch, Batcher};
use crate::engine::trainer::Objective;
use crate::error::Result;
use crate::nn::{Forward, ForwardOptions, Network, loss};

/// A batch's ids as the tensor the network takes, `(rows, cols)`.
///
/// # Errors
/// If the tensor cannot be made.
pub fn batch_ids(batch: &Batch) -> Result<Tensor> {
    Ok(Tensor::from_slice(&batch.ids, (batch.rows, batch.cols), &Device::Cpu)?)
}

/// Next-token cross-entropy at every recursion (deep supervision) plus the halting head's target.
pub struct LanguageModel {
    batcher: Batcher,
    supervision: Vec<f32>,
    halt_weight: f32,
    halt_margin: f32,
    smoothing: f32,
}

impl LanguageModel {
    /// Trains on `batcher`'s batches with the supervision of phase 1's configuration.
    pub fn new(batcher: Batcher, cognate: &CognateConfig, smoothing: f32) -> Self {
        Self {
            batcher,
            supervision: cognate.supervision.clone(),
            halt_weight: cognate.halt_weight,
            halt_margin: cognate.halt_margin,
            smoothing,
        }
    }

    /// Replaces the batches, keeping everything else.
    pub fn set_batcher(&mut self, batcher: Batcher) {
        self.batcher = batcher;
    }
}

impl Objective for LanguageModel {
    fn loss(&mut self, network: &Network, step: u64) -> Result<Tensor> {
        let batch = self.batcher.batch(step);
        let forward = network.forward(&batch_ids(&batch)?, &ForwardOptions::training())?;
        supervised_loss(network, &forward, &batch, self)
    }
}

fn supervised_loss(
    network: &Network,
    forward: &Forward,
    batch: &Batch,
    options: &LanguageModel,
) -> Result<Tensor> {
    let targets: Arc<Vec<u32>> = Arc::new(batch.targets.clone());
    let weights: Arc<Vec<f32>> = Arc::new(batch.weights.clone());
    let recursions = forward.answers.len();
    let mut total: Option<Tensor> = None;
    let mut weight_sum = 0.0;
    let mut losses = Vec::new();
    for (t, answer) in forward.answers.iter().enumerate() {
        let weight = supervision_weight(&options.supervision, t, recursions);
        let logits = network.logits(answer)?;
        if !forward.halt.is_empty() {
            losses.push(loss::token_losses(&logits, &targets)?);
        }
        let ce = loss::cross_entropy(&logits, &targets, &weights, options.smoothing)?;
        let term = (ce * f64::from(weight))?;
        total = Some(match total {
            Some(sum) => (sum + term)?,
            None => term,
        });
        weight_sum += weight;
    }
    let ce = (total.expect("a network has at least one recursion") / f64::from(weight_sum))?;
    if options.halt_weight <= 0.0 || forward.halt.is_empty() {
        return Ok(ce);
    }
    let mut halting: Option<Tensor> = None;
    for (t, logit) in forward.halt.iter().enumerate() {
        let useless: Vec<f32> = losses[t]
            .iter()
            .zip(&losses[t + 1])
            .map(|(now, next)| if now - next < options.halt_margin { 1.0 } else { 0.0 })
            .collect();
        let bce = loss::binary_cross_entropy(logit, &Arc::new(useless), &weights)?;
        halting = Some(match halting {
            Some(sum) => (sum + bce)?,
            None => bce,
        });
    }
    match halting {
        Some(halting) => Ok((ce + (halting * f64::from(options.halt_weight))?)?),
        None => Ok(ce),
    }
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
    fn loss(&mut self, network: &Network, step: u64) -> Result<Tensor> {
        let batch = self.data.batcher.batch(step);
        let ids = batch_ids(&batch)?;
        let teacher = self.teacher.forward(&ids, &ForwardOptions::inference())?;
        let teacher = self.teacher.logits(teacher.answers.last().expect("one recursion at least"))?;
        let forward = network.forward(&ids, &ForwardOptions::training())?;
        let student = network.logits(forward.answers.last().expect("one recursion at least"))?;
        let kl = loss::kl_divergence(&student, &teacher, &Arc::new(batch.weights.clone()))?;
        let data = supervised_loss(network, &forward, &batch, &self.data)?;
        Ok(((kl * f64::from(self.weight))? + (data * f64::from(1.0 - self.weight))?)?)
    }
}

/// A batcher over sequences with the sizes of the configuration.
pub fn batcher(
    sequences: Arc<Vec<crate::data::Sequence>>,
    batch_tokens: usize,
    data: &DataConfig,
    seed: u64,
    label: &str,
) -> Batcher {
    Batcher::new(sequences, batch_tokens, data.max_len, seed, label)
}

#[cfg(test)]
mod tests {
    use super::supervision_weight;

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
