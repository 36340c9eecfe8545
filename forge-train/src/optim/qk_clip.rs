//! QK-clip (Kimi Team 2025, arXiv 2507.20534, section 2.1): keeps attention logits bounded by rescaling the rows of
//! the query and key projections, where logit-capping or normalised queries would change the model.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use crate::error::{Error, Result};
use crate::weights::Key;

/// Rescales heads whose largest logit `S` exceeds `tau`, by `γ = τ / S` in all; returns how many did.
///
/// `peaks [layers · heads]` has the largest logit of every query head. A logit is bilinear in its query and key rows,
/// so any split of γ between them caps it. Keys of a group are shared by several query heads: they take `√γ` of the
/// group's worst head, and every query head takes the rest of its own γ. A head that did not exceed `tau` keeps
/// its logits, and with one query head a group both sides take `√γ`, as in the paper. Rotary positions turn
/// queries and keys without changing their length, so their rows need no exception.
///
/// # Errors
/// If `peaks` is of another model, or a projection is missing.
pub fn qk_clip(vars: &BTreeMap<Key, Var>, model: &ModelConfig, peaks: &[f32], tau: f32) -> Result<usize> {
    let heads = model.heads as usize;
    if peaks.len() != heads * model.layers as usize {
        return Err(Error::Config(format!("{} largest logits for another model", peaks.len())));
    }
    let mut clipped = 0;
    for (layer, peaks) in (0..model.layers).zip(peaks.chunks(heads)) {
        let over = peaks.iter().filter(|peak| **peak > tau).count();
        if over > 0 {
            let key = (Role::Qkv, layer);
            let var = vars.get(&key).ok_or(forge_formats::error::Error::Tensor(key.0.name()))?;
            let factors = row_factors(model, peaks, tau);
            let column = Tensor::from_slice(&factors, (factors.len(), 1), var.device())?;
            var.set(&var.as_tensor().detach().broadcast_mul(&column)?)?;
            clipped += over;
        }
    }
    Ok(clipped)
}

/// Factor of every row of a block's fused query, key and value projection.
fn row_factors(model: &ModelConfig, peaks: &[f32], tau: f32) -> Vec<f32> {
    let (d, group) = (model.head_dim as usize, (model.heads / model.kv_heads) as usize);
    let gammas: Vec<f32> = peaks.iter().map(|peak| if *peak > tau { tau / peak } else { 1.0 }).collect();
    let worst: Vec<f32> =
        gammas.chunks(group).map(|group| group.iter().copied().fold(1.0, f32::min).sqrt()).collect();
    let queries = gammas.iter().enumerate().map(|(head, gamma)| gamma / worst[head / group]);
    let values = std::iter::repeat_n(1.0, worst.len());
    let factors: Vec<f32> = queries.chain(worst.iter().copied()).chain(values).collect();
    factors.into_iter().flat_map(|factor| std::iter::repeat_n(factor, d)).collect()
}
