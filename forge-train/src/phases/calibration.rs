//! Second moments of the inputs of every projection, by which pruning and codec choice weigh errors.

use std::collections::BTreeMap;

use candle_core::Device;

use crate::data::Sequence;
use crate::data::batch::collate;
use crate::engine::objective::batch_ids;
use crate::error::Result;
use crate::nn::{Network, Precision};
use crate::pipeline::PhaseContext;
use crate::weights::{Key, Matrix, Weights};

/// `E[x_j²]` of the (normalised) input of every projection over `sequences`, `[1, cols]` a tensor: the diagonal of
/// the layer-wise Hessian of Wanda (Sun et al. 2023) and VPTQ. Padding takes no part.
///
/// # Errors
/// If a tensor operation fails.
pub fn input_moments(
    ctx: &PhaseContext<'_>,
    weights: &Weights,
    precision: Precision,
    sequences: &[Sequence],
) -> Result<BTreeMap<Key, Matrix>> {
    // The inputs are looked at on the host, once, so the host computes them.
    let network = Network::new(weights, precision, &Device::Cpu)?.detached();
    let mut moments: BTreeMap<Key, (Vec<f64>, f64)> = BTreeMap::new();
    for chunk in sequences.chunks(16) {
        let batch = collate(&chunk.iter().collect::<Vec<_>>(), ctx.data.tokenizer.control("<pad>"));
        let real: Vec<bool> =
            (0..batch.rows * batch.cols).map(|i| i % batch.cols < chunk[i / batch.cols].ids.len()).collect();
        let mut record = |key: Key, values: &[f32], cols: usize| {
            let (sums, count) = moments.entry(key).or_insert_with(|| (vec![0.0; cols], 0.0));
            for (row, _) in values.chunks_exact(cols).zip(&real).filter(|(_, real)| **real) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
                *count += 1.0;
            }
        };
        network.forward_observed(&batch_ids(&batch)?, &mut record)?;
    }
    Ok(moments
        .into_iter()
        .map(|(key, (sums, n))| {
            let data: Vec<f32> = sums.iter().map(|s| (s / n) as f32).collect();
            (key, Matrix { rows: 1, cols: data.len(), data })
        })
        .collect())
}
