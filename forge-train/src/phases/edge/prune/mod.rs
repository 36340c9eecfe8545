//! Structured pruning: whole channels, heads and blocks are removed, so the model that remains is an ordinary
//! one, smaller in bytes, in work and in caches, and no decoder needs to know.
//!
//! All sizes of a model are the same in every block, so every block loses as many channels as the others.
//! That is also the better choice: a ranking across blocks concentrates on one and hurts more than caps per
//! block.
//!
//! Every width pruned here is the input of a gain-free RMSNorm. Fewer channels make its mean square larger
//! and its output smaller, by √(kept / before) where the removed channels were zero; the next projection's
//! columns are multiplied by the inverse. So removing channels equals masking them, up to `norm_eps`.

mod attention;
mod blocks;
mod channels;
mod fold;
mod importance;
#[cfg(test)]
mod reference;
mod shrink;

use std::collections::BTreeMap;

use forge_formats::config::ModelConfig;
use forge_formats::role::Role;

use crate::error::{Error, Result};
use crate::weights::{Key, Matrix, Weights};

pub use attention::{HeadGroups, keep_attention, select_heads};
pub use blocks::keep_blocks;
pub use channels::{keep_ffn, keep_gate, keep_memory};
pub use fold::fold_gains;
pub use importance::{Activations, column_scores, select};
pub use shrink::{Guard, Sizes, shrink};

/// A model of shape `config` whose tensors are `make(role, block)`, the block counted as in `config`.
///
/// # Errors
/// [`Error::Config`] when the new shape is invalid or a tensor does not have it.
fn rebuild(config: ModelConfig, mut make: impl FnMut(Role, u32) -> Matrix) -> Result<Weights> {
    config.validate()?;
    let mut tensors: BTreeMap<Key, Matrix> = BTreeMap::new();
    for (role, layer, [rows, cols]) in config.tensors() {
        let m = make(role, layer);
        if (m.rows, m.cols) != (rows as usize, cols as usize) || m.data.len() != m.rows * m.cols {
            let (have, name) = ([m.rows, m.cols], role.name());
            return Err(Error::Config(format!("pruning left {name} {layer} with shape {have:?}")));
        }
        tensors.insert((role, layer), m);
    }
    Ok(Weights { config, tensors })
}

/// The rows `keep` of `m`, in that order.
fn rows(m: &Matrix, keep: &[usize]) -> Matrix {
    let data = keep.iter().flat_map(|&r| m.row(r).iter().copied()).collect();
    Matrix { rows: keep.len(), cols: m.cols, data }
}

/// The columns `keep` of `m`, in that order, times `scale`.
fn columns(m: &Matrix, keep: &[usize], scale: f32) -> Matrix {
    let row = |r: usize| keep.iter().map(move |&c| m.row(r)[c] * scale);
    Matrix { rows: m.rows, cols: keep.len(), data: (0..m.rows).flat_map(row).collect() }
}

/// What the columns after a norm over `before` channels are multiplied by when `after` of them remain.
fn compensation(before: usize, after: usize) -> f32 {
    (before as f64 / after.max(1) as f64).sqrt() as f32
}

/// `keep`, and `keep` again `offset` further on: the two halves of a fused projection.
fn both_halves(keep: &[usize], offset: usize) -> Vec<usize> {
    keep.iter().copied().chain(keep.iter().map(|k| k + offset)).collect()
}

/// Checks that every block keeps equally many channels, at least one, rising and below `width`; returns how
/// many. Blocks for which `applies` is false must keep none.
fn check_choice(
    keep: &[Vec<usize>],
    config: &ModelConfig,
    width: u32,
    applies: impl Fn(u32) -> bool,
) -> Result<u32> {
    let fail = |layer: usize| {
        Err(Error::Config(format!(
            "block {layer}: the channels to keep must rise and be as many in every block"
        )))
    };
    if keep.len() != config.layers as usize {
        return Err(Error::Config(format!("{} blocks, but channels for {}", config.layers, keep.len())));
    }
    let mut count = None;
    for (layer, chosen) in keep.iter().enumerate() {
        if !applies(layer as u32) {
            if !chosen.is_empty() {
                return fail(layer);
            }
            continue;
        }
        let rising = chosen.windows(2).all(|w| w[0] < w[1]);
        let inside = chosen.last().is_some_and(|&last| last < width as usize);
        if !rising || !inside || *count.get_or_insert(chosen.len()) != chosen.len() {
            return fail(layer);
        }
    }
    Ok(count.unwrap_or(width as usize) as u32)
}
