//! Small random changes of a model, reproducible from a seed.

use serde::{Deserialize, Serialize};

use super::operators::{build, check_models, slices};
use crate::error::Result;
use crate::rng::Rng;
use crate::weights::{Key, Weights};

/// In which space a mutation moves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// Gaussian noise of `sigma` times the tensor's root mean square on this share of its weights.
    Noise {
        /// Share of the weights, in (0, 1].
        fraction: f32,
    },
    /// For every block, and for all that is outside the blocks, `Σ_i ε_i (original_i − base)` is added, with
    /// ε ~ N(0, sigma²): a move in the span of what the originals learned, where a random step has a fair
    /// chance to help, which in the space of all weights it has not.
    Task,
}

/// One mutation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mutation {
    /// Where it moves.
    pub space: Space,
    /// How far; see [`Space`].
    pub sigma: f32,
    /// Names the random numbers.
    pub seed: u64,
}

impl Mutation {
    /// The mutated copy of `parent`.
    ///
    /// # Errors
    /// When parent, originals and base differ in shape.
    pub fn apply(&self, parent: &Weights, originals: &[&Weights], base: &Weights) -> Result<Weights> {
        let all: Vec<&Weights> = [parent, base].into_iter().chain(originals.iter().copied()).collect();
        check_models(&all)?;
        Ok(build(parent, |key, m| self.tensor(key, &m.data, originals, base)))
    }

    /// One tensor of the mutated copy; `parent` is that of the parent. The models have one shape.
    pub fn tensor(&self, key: Key, parent: &[f32], originals: &[&Weights], base: &Weights) -> Vec<f32> {
        let Space::Noise { fraction } = self.space else {
            return add_deltas(key, parent, &self.coefficients(key, originals.len()), originals, base);
        };
        self.noise(key, parent, fraction)
    }

    /// `data` with noise on a share of its entries.
    fn noise(&self, (role, layer): Key, data: &[f32], fraction: f32) -> Vec<f32> {
        let mut rng = Rng::new(self.seed, &["noise", role.name(), &layer.to_string()]);
        let squares: f64 = data.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let step = self.sigma * (squares / data.len().max(1) as f64).sqrt() as f32;
        data.iter().map(|&v| if rng.chance(fraction) { v + step * rng.normal() } else { v }).collect()
    }

    /// ε of each original, the same for all tensors of a block.
    fn coefficients(&self, (role, layer): Key, originals: usize) -> Vec<f64> {
        let place = if role.per_layer() { layer.to_string() } else { "outside".into() };
        let mut rng = Rng::new(self.seed, &["task", &place]);
        (0..originals).map(|_| f64::from(self.sigma * rng.normal())).collect()
    }
}

/// `from + Σ_i c_i (original_i − base)` of one tensor.
pub(super) fn add_deltas(
    key: Key,
    from: &[f32],
    coefficients: &[f64],
    originals: &[&Weights],
    base: &Weights,
) -> Vec<f32> {
    let origin = &base.get(key.0, key.1).data;
    let deltas = slices(originals, key);
    let add = |(i, &w): (usize, &f32)| {
        let delta = |v: &[f32]| f64::from(v[i]) - f64::from(origin[i]);
        let step: f64 = coefficients.iter().zip(&deltas).map(|(c, v)| c * delta(v)).sum();
        (f64::from(w) + step) as f32
    };
    from.iter().enumerate().map(add).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::{model, model_of, values};
    use forge_formats::role::Role;

    #[test]
    fn noise_touches_its_share_by_its_size() {
        let (a, base) = (model_of(2.0), model_of(0.0));
        let mutation = Mutation { space: Space::Noise { fraction: 0.25 }, sigma: 0.1, seed: 3 };
        let child = mutation.apply(&a, &[&a], &base).unwrap();
        let steps: Vec<f64> = values(&child).map(|v| f64::from(v) - 2.0).filter(|&d| d != 0.0).collect();
        let n = values(&a).count() as f64;
        let share = steps.len() as f64 / n;
        assert!((share - 0.25).abs() < 5.0 * (0.25 * 0.75 / n).sqrt(), "{share}");
        let sd = (steps.iter().map(|d| d * d).sum::<f64>() / steps.len() as f64).sqrt();
        assert!((sd - 0.2).abs() < 5.0 * 0.2 / (2.0 * steps.len() as f64).sqrt(), "{sd}");
        assert_eq!(mutation.apply(&a, &[&a], &base).unwrap(), child);
        assert_ne!(Mutation { seed: 4, ..mutation }.apply(&a, &[&a], &base).unwrap(), child);
    }

    #[test]
    fn task_mutation_moves_along_the_deltas_block_by_block() {
        let (base, a, parent) = (model_of(1.0), model_of(3.0), model(1));
        let mutation = Mutation { space: Space::Task, sigma: 0.2, seed: 3 };
        let child = mutation.apply(&parent, &[&a], &base).unwrap();
        // The delta is 2 everywhere, so every tensor of a block moves by one number.
        let step = |role, layer| child.get(role, layer).data[0] - parent.get(role, layer).data[0];
        assert!((step(Role::Qkv, 0) - step(Role::Down, 0)).abs() < 1e-5);
        assert!((step(Role::Qkv, 0) - step(Role::Qkv, 1)).abs() > 1e-3);
        assert!(step(Role::Embedding, 0) != 0.0);
        // Nothing to learn from: no move.
        assert_eq!(mutation.apply(&parent, &[&base], &base).unwrap(), parent);
    }
}
