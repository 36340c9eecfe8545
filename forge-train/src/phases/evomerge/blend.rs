//! A merge by a coefficient for each original and each group of tensors: what CMA-ES searches over.

use serde::{Deserialize, Serialize};

use super::mutation::add_deltas;
use super::operators::{build, check_models};
use crate::error::{Error, Result};
use crate::weights::{Key, Weights};

/// `W = base + Σ_i c_{g,i} (original_i − base)`, task arithmetic with coefficients of its own for every group `g` of
/// tensors: group 0 is everything outside the blocks (embedding, norms, loop), group `1 + l` is block `l`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    /// For each group one coefficient an original, in the founders' order.
    pub coefficients: Vec<Vec<f32>>,
    /// Identities of the originals, in the same order.
    pub parents: Vec<String>,
}

impl Blend {
    /// Number of groups of a model with `layers` blocks.
    pub fn groups(layers: u32) -> usize {
        1 + layers as usize
    }

    /// One tensor of the merge. The models have one shape, and the blend was checked.
    pub fn tensor(&self, key: Key, originals: &[&Weights], base: &Weights) -> Vec<f32> {
        let group = if key.0.per_layer() { 1 + key.1 as usize } else { 0 };
        let coefficients: Vec<f64> = self.coefficients[group].iter().map(|c| f64::from(*c)).collect();
        add_deltas(key, &base.get(key.0, key.1).data, &coefficients, originals, base)
    }

    /// The merged model.
    ///
    /// # Errors
    /// [`Error::Config`] when the models differ in shape or there is not one coefficient for each group and original.
    pub fn apply(&self, originals: &[&Weights], base: &Weights) -> Result<Weights> {
        let all: Vec<&Weights> = std::iter::once(base).chain(originals.iter().copied()).collect();
        check_models(&all)?;
        let groups = Self::groups(base.config.layers);
        let fits = self.coefficients.iter().all(|c| c.len() == originals.len());
        if self.coefficients.len() != groups || !fits {
            let n = originals.len();
            return Err(Error::Config(format!("a blend needs {groups} groups of {n} coefficients")));
        }
        Ok(build(base, |key, _| self.tensor(key, originals, base)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phases::evomerge::test_support::model_of;
    use forge_formats::role::Role;

    #[test]
    fn every_group_has_its_own_coefficients() {
        let (base, a, b) = (model_of(1.0), model_of(3.0), model_of(5.0));
        let blend =
            |coefficients: Vec<Vec<f32>>| Blend { coefficients, parents: vec!["a".into(), "b".into()] };
        let merged =
            blend(vec![vec![0.5, 0.5], vec![1.0, 0.0], vec![-0.5, 0.25]]).apply(&[&a, &b], &base).unwrap();
        // Deltas 2 and 4: 1 + 1 + 2, 1 + 2, 1 − 1 + 1.
        assert_eq!(merged.get(Role::Embedding, 0).data[0], 4.0);
        assert_eq!(merged.get(Role::Qkv, 0).data[0], 3.0);
        assert_eq!(merged.get(Role::Qkv, 1).data[0], 1.0);
        assert!(blend(vec![vec![0.5, 0.5]]).apply(&[&a, &b], &base).is_err());
        assert!(blend(vec![vec![0.5]; 3]).apply(&[&a, &b], &base).is_err());
    }
}
