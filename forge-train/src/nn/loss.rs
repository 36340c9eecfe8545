//! Training losses over [`Network`](super::Network) outputs.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::ops::loss::{BinaryCrossEntropy, CrossEntropy, Divergence, Weighting, negative_log_likelihood};
use super::ops::{ROWS, apply1, apply2, host};
use crate::error::Result;

/// `Σ w·CE / Σ w` in nats over rows of `logits [n, vocab]`; 0 without gradient when all weights are 0.
///
/// # Errors
/// If the numbers of rows, targets and weights differ, or a target is outside the vocabulary.
pub fn weighted_cross_entropy(logits: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    let weighting = Weighting::new(weights.to_vec());
    Ok(apply1(CrossEntropy { targets: Arc::new(targets.to_vec().into()), weighting }, logits)?)
}

/// `τ² Σ w·KL(teacher ‖ student) / Σ w` at temperature τ over rows of logits `[n, vocab]`. No gradient reaches the
/// teacher.
///
/// # Errors
/// If shapes differ or the temperature is not positive.
pub fn kl(student: &Tensor, teacher: &Tensor, weights: &[f32], temperature: f32) -> Result<Tensor> {
    let divergence = Divergence { temperature, weighting: Weighting::new(weights.to_vec()) };
    Ok(apply2(divergence, student, &teacher.detach())?)
}

/// Weighted mean binary cross entropy of halting logits `[n]` against targets in [0, 1] (1: halt here).
///
/// # Errors
/// If the numbers of logits, targets and weights differ.
pub fn binary_cross_entropy(logits: &Tensor, targets: &[f32], weights: &[f32]) -> Result<Tensor> {
    let weighting = Weighting::new(weights.to_vec());
    Ok(apply1(BinaryCrossEntropy { targets: Arc::new(targets.to_vec().into()), weighting }, logits)?)
}

/// How one token was predicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Cross entropy in nats.
    pub loss: f32,
    /// Whether the target has the highest logit (the first of equals wins, as in the sampler).
    pub correct: bool,
}

/// Scores every row of `logits [n, vocab]`, outside the graph; the source of halting targets.
///
/// # Errors
/// If `logits` is not a matrix with one row a target.
///
/// # Panics
/// If a target is outside the vocabulary.
pub fn token_scores(logits: &Tensor, targets: &[u32]) -> Result<Vec<TokenScore>> {
    let logits = logits.contiguous()?;
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let (losses, correct) = super::ops::cuda::token_scores(&logits, &targets.to_vec().into())?;
        let scores = losses.into_iter().zip(correct);
        return Ok(scores.map(|(loss, correct)| TokenScore { loss, correct: correct > 0.0 }).collect());
    }
    let (storage, layout) = logits.storage_and_layout();
    let rows = host(&storage, layout)?;
    let vocab = rows.width();
    let score = |row: &[f32], target: u32, scratch: &mut [f32]| {
        let target = target as usize;
        let correct =
            row.iter().enumerate().all(|(i, v)| *v < row[target] || i >= target && *v <= row[target]);
        TokenScore { loss: negative_log_likelihood(row, target, scratch), correct }
    };
    Ok(rows
        .data
        .par_chunks(ROWS * vocab)
        .zip(targets.par_chunks(ROWS))
        .flat_map_iter(|(rows, targets)| {
            let mut scratch = vec![0.0; vocab];
            let scores: Vec<_> =
                rows.chunks_exact(vocab).zip(targets).map(|(r, t)| score(r, *t, &mut scratch)).collect();
            scores
        })
        .collect())
}
