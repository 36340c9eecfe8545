//! The largest attention logit of every head, which QK-clip goes by.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::ops::attention::{Attention, Reach};
use super::ops::simd::vectorised;
use crate::error::Result;
use forge_runtime::math;

/// Largest logit of each head so far, `[layers · heads]`; the order in which sequences come does not matter.
pub(super) struct LogitPeaks(Mutex<Vec<f32>>);

impl LogitPeaks {
    /// For `heads` heads in all blocks together.
    pub(super) fn new(heads: usize) -> Self {
        Self(Mutex::new(vec![f32::NEG_INFINITY; heads]))
    }

    /// Looks at the rows of queries, keys and values `[b·t, (heads + 2 kv_heads)·d]` of block `layer`, outside the
    /// graph.
    pub(super) fn see(&self, layer: usize, attention: &Attention, qkv: &Tensor) -> Result<()> {
        let heads = attention.heads;
        // A device's rows are bf16 and are copied to the host: there `qk_clip_every` should be more than 1.
        let rows = qkv.detach().flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let wide = (heads + 2 * attention.kv_heads) * attention.head_dim;
        let peaks: Vec<Vec<f32>> =
            rows.par_chunks(attention.cols * wide).map(|rows| of_sequence(attention, rows, wide)).collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sequence in peaks {
            for (known, peak) in all[layer * heads..(layer + 1) * heads].iter_mut().zip(sequence) {
                *known = known.max(peak);
            }
        }
        Ok(())
    }

    /// The peaks.
    pub(super) fn values(&self) -> Vec<f32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Largest logit of each query head in one sequence.
fn of_sequence(attention: &Attention, rows: &[f32], wide: usize) -> Vec<f32> {
    let (d, group) = (attention.head_dim, attention.heads / attention.kv_heads);
    let rotated = |head: usize| -> Vec<f32> {
        let mut out = vec![0.0; attention.cols * d];
        for (position, out) in out.chunks_exact_mut(d).enumerate() {
            attention.rope.rotate(position, &rows[position * wide + head * d..][..d], out);
        }
        out
    };
    let mut peaks = Vec::with_capacity(attention.heads);
    for kv in 0..attention.kv_heads {
        let keys = rotated(attention.heads + kv);
        for head in kv * group..(kv + 1) * group {
            peaks.push(largest(&rotated(head), &keys, d, attention.reach) / math::sqrt(d as f32));
        }
    }
    peaks
}

vectorised! {
/// Largest product of a query with a key that it attends to.
fn largest(queries: &[f32], keys: &[f32], d: usize, reach: Reach) -> f32 {
    let mut peak = f32::NEG_INFINITY;
    for (position, query) in queries.chunks_exact(d).enumerate() {
        for at in reach.beyond(position) {
            peak = peak.max(math::dot(query, &keys[at * d..][..d]));
        }
        let from = reach.window_start(position);
        for key in keys[from * d..(position + 1) * d].chunks_exact(d) {
            peak = peak.max(math::dot(query, key));
        }
    }
    peak
}
}
