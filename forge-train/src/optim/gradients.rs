//! Gradients outside candle's graph, ordered by parameter.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::Var;
use candle_core::backprop::GradStore;
use rayon::prelude::*;

use super::array::Array;
use crate::error::Result;
use crate::nn::ops::simd::vectorised;
use crate::weights::Key;

/// Values per chunk of parallel work.
pub(super) const CHUNK: usize = 8192;

/// One gradient per parameter that has one, where the parameters are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients(BTreeMap<Key, Array>);

impl Gradients {
    /// Moves the gradients of `vars` out of what `backward` returned.
    ///
    /// # Errors
    /// If a gradient cannot be read.
    pub fn collect(vars: &BTreeMap<Key, Var>, store: &mut GradStore) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (key, var) in vars {
            if let Some(grad) = store.remove(var) {
                all.insert(*key, Array::of(&grad)?);
            }
        }
        Ok(Self(all))
    }

    /// From vectors, wherever they are.
    pub fn from_map(map: BTreeMap<Key, impl Into<Array>>) -> Self {
        Self(map.into_iter().map(|(key, values)| (key, values.into())).collect())
    }

    /// The gradient of one parameter; none if there is none, or it is not on the host.
    pub fn get(&self, key: &Key) -> Option<&[f32]> {
        self.0.get(key).and_then(|grad| grad.host().ok())
    }

    /// All gradients in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Array)> {
        self.0.iter()
    }

    /// All gradients, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Array)> {
        self.0.iter_mut()
    }

    /// Keeps only the parameters for which `keep` holds; the rest is frozen in the next step.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// Adds another micro-batch's gradients.
    ///
    /// # Errors
    /// If the two have gradients of different sizes, or in different places, for one parameter.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (key, grad) in other.0 {
            match self.0.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(grad);
                }
                Entry::Occupied(entry) => entry.into_mut().add(&grad)?,
            }
        }
        Ok(())
    }

    /// Multiplies every gradient, for example by one over the number of micro-batches.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn scale(&mut self, factor: f32) -> Result<()> {
        self.0.values_mut().try_for_each(|grad| grad.scale(factor))
    }

    /// `Σ g²` of each parameter's gradient, in the order of their keys. On a device this waits for all of them.
    fn squares(&self) -> Result<Vec<f64>> {
        #[cfg(feature = "cuda")]
        if self.0.values().any(|grad| grad.device().is_some()) {
            let grads = self.0.values().map(Array::on_device).collect::<Result<Vec<_>>>()?;
            return super::cuda::sums_of_squares(&grads);
        }
        self.0.values().map(|grad| Ok(sum_of_squares(grad.host()?))).collect()
    }

    /// Euclidean norm over all parameters.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn norm(&self) -> Result<f64> {
        Ok(self.squares()?.iter().sum::<f64>().sqrt())
    }

    /// Euclidean norm of each parameter's gradient.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn norms(&self) -> Result<BTreeMap<Key, f64>> {
        Ok(self.0.keys().copied().zip(self.squares()?.into_iter().map(f64::sqrt)).collect())
    }

    /// Scales all gradients down to a global norm of at most `max`; returns the norm before.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn clip(&mut self, max: f64) -> Result<f64> {
        let norm = self.norm()?;
        if norm > max {
            self.scale((max / norm) as f32)?;
        }
        Ok(norm)
    }
}

/// `Σ g²` in f64, chunk sums added in order.
fn sum_of_squares(g: &[f32]) -> f64 {
    let partials: Vec<f64> = g.par_chunks(CHUNK).map(chunk_squares).collect();
    partials.iter().sum()
}

vectorised! {
fn chunk_squares(g: &[f32]) -> f64 {
    let (chunks, tail) = g.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, &g) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(g) * f64::from(g);
        }
    }
    lanes.iter().sum::<f64>() + tail.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>()
}
}
