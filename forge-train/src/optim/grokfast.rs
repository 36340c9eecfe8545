//! Grokfast-EMA (Lee et al. 2024, arXiv 2405.20233): amplifies the slow component of the gradient.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::{Array, Gradients, State, load_map, save_map};
use crate::error::Result;
use crate::weights::Key;

/// `μ ← αμ + (1−α)g` with `μ₀ = g₀`, then `g ← g + λμ`. Adding the *mean* is a low-pass boost; subtracting it,
/// as in `g + λ(g − μ)`, would be the opposite. Applied before clipping, because it enlarges the norm.
#[derive(Clone, Debug)]
pub struct Grokfast {
    alpha: f32,
    lambda: f32,
    mean: BTreeMap<Key, Array>,
}

impl Grokfast {
    /// A filter of decay `alpha` and gain `lambda` (the paper's ranges: 0.8–0.99 and 0.1–5).
    pub fn new(alpha: f32, lambda: f32) -> Self {
        Self { alpha, lambda, mean: BTreeMap::new() }
    }

    /// Filters one step's gradients in place.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn apply(&mut self, grads: &mut Gradients) -> Result<()> {
        for (key, grad) in grads.iter_mut() {
            let mean = match self.mean.entry(*key) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(grad.duplicate()?),
            };
            mean.move_beside(grad)?;
            #[cfg(feature = "cuda")]
            if let Some(g) = grad.device() {
                super::cuda::grokfast(g, mean.on_device()?, self.alpha, self.lambda)?;
                continue;
            }
            for (g, m) in grad.host_mut()?.iter_mut().zip(mean.host_mut()?) {
                *m = self.alpha * *m + (1.0 - self.alpha) * *g;
                *g += self.lambda * *m;
            }
        }
        Ok(())
    }

    /// The running means.
    ///
    /// # Errors
    /// If a device cannot be read.
    pub fn state(&self) -> Result<State> {
        let mut state = State::new();
        save_map("grokfast.", &self.mean, &mut state)?;
        Ok(state)
    }

    /// Takes over a state written by [`Grokfast::state`]; other names are ignored.
    ///
    /// # Errors
    /// If a name is not one of a parameter.
    pub fn restore(&mut self, state: &State) -> Result<()> {
        self.mean = load_map("grokfast.", state)?;
        Ok(())
    }
}
