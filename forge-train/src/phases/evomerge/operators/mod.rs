//! Merge operators: pure functions of models that share one shape.
//!
//! Each follows the definition of its paper, in the conventions of mergekit where the two leave room: tensors
//! are flattened and treated one by one, `delta_i = W_i − W_base`. Values are combined in f64 and rounded to
//! f32 once, in an order that does not depend on the number of threads.

mod delta;
mod interpolate;
mod select;

use forge_formats::config::ModelConfig;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::weights::{Key, Matrix, Weights};

pub(crate) use delta::check_density;
pub use delta::{
    Dare, DeltaSum, Rescale, Ties, dare, dare_slices, drop_entries, merge_deltas, task_arithmetic, ties,
    ties_slices, trim,
};
pub use interpolate::{linear, linear_slices, slerp, slerp_slices};
pub use select::{Pattern, best_donors, dfs, dfs_slices, franken};

/// Builds a model tensor by tensor, in parallel; `make` gets the key and the template's matrix and returns as
/// many values.
pub(crate) fn build(template: &Weights, make: impl Fn(Key, &Matrix) -> Vec<f32> + Sync) -> Weights {
    let tensors: Vec<(&Key, &Matrix)> = template.tensors.iter().collect();
    let made: Vec<(Key, Matrix)> = tensors
        .par_iter()
        .map(|&(key, m)| (*key, Matrix { rows: m.rows, cols: m.cols, data: make(*key, m) }))
        .collect();
    Weights { config: template.config.clone(), tensors: made.into_iter().collect() }
}

/// The values of tensor `key` in each of `models`.
pub(crate) fn slices<'a>(models: &[&'a Weights], key: Key) -> Vec<&'a [f32]> {
    models.iter().map(|w| w.get(key.0, key.1).data.as_slice()).collect()
}

/// Checks that there is at least one model and that all have the same tensors as the first. Halting
/// thresholds may differ: they are a setting of the run, and the result takes that of the model that gives it
/// its shape.
///
/// # Errors
/// [`Error::Config`] naming the first model that differs.
pub(crate) fn check_models(models: &[&Weights]) -> Result<()> {
    let Some(first) = models.first() else {
        return Err(Error::Config("a merge needs at least one model".into()));
    };
    let comparable = |c: &ModelConfig| ModelConfig { halt_threshold: 0.0, ..c.clone() };
    for (i, model) in models.iter().enumerate() {
        let shapes = |w: &Weights| w.tensors.iter().map(|(k, m)| (*k, m.data.len())).collect::<Vec<_>>();
        if comparable(&model.config) != comparable(&first.config) || shapes(model) != shapes(first) {
            return Err(Error::Config(format!("model {i} of a merge differs in shape from model 0")));
        }
    }
    Ok(())
}

/// Checks that there is one finite weight for each model.
///
/// # Errors
/// [`Error::Config`] otherwise.
pub(crate) fn check_weights(models: usize, weights: &[f32]) -> Result<()> {
    if weights.len() != models {
        return Err(Error::Config(format!("{models} models are merged with {} weights", weights.len())));
    }
    match weights.iter().position(|w| !w.is_finite()) {
        Some(i) => Err(Error::Config(format!("merge weight {i} is not finite"))),
        None => Ok(()),
    }
}

/// Shares that sum to 1, in proportion to non-negative `weights`.
///
/// # Errors
/// [`Error::Config`] when a weight is negative or not finite, when their number is not `models`, or when all
/// are 0.
pub(crate) fn shares(models: usize, weights: &[f32]) -> Result<Vec<f64>> {
    check_weights(models, weights)?;
    if let Some(i) = weights.iter().position(|&w| w < 0.0) {
        return Err(Error::Config(format!("merge weight {i} is negative")));
    }
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    if total <= 0.0 {
        return Err(Error::Config("the merge weights are all zero".into()));
    }
    Ok(weights.iter().map(|&w| f64::from(w) / total).collect())
}
