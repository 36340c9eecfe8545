//! Gradients outside candle's graph, ordered by parameter.

use std::collections::BTreeMap;

use candle_core::Var;
use candle_core::backprop::GradStore;
use rayon::prelude::*;

use crate::error::Result;
use crate::nn::ops::simd::vectorised;
use crate::weights::Key;

/// Values per chunk of parallel work.
pub(super) const CHUNK: usize = 8192;

/// One gradient per parameter that has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients(BTreeMap<Key, Vec<f32>>);

impl Gradients {
    /// Moves the gradients of `vars` out of what `backward` returned.
    ///
    /// # Errors
    /// If a gradient cannot be read.
    pub fn collect(vars: &BTreeMap<Key, Var>, store: &mut GradStore) -> Result<Self> {
        let mut all = BTreeMap::new();
        for (key, var) in vars {
            if let Some(grad) = store.remove(var) {
                all.insert(*key, grad.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Ok(Self(all))
    }

    /// From plain vectors.
    pub fn from_map(map: BTreeMap<Key, Vec<f32>>) -> Self {
        Self(map)
    }

    /// The gradient of one parameter.
    pub fn get(&self, key: &Key) -> Option<&[f32]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// All gradients in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &[f32])> {
        self.0.iter().map(|(k, v)| (k, v.as_slice()))
    }

    /// All gradients, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Key, &mut Vec<f32>)> {
        self.0.iter_mut()
    }

    /// Keeps only the parameters for which `keep` holds; the rest is frozen in the next step.
    pub fn retain(&mut self, mut keep: impl FnMut(&Key) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// Adds another micro-batch's gradients.
    ///
    /// # Panics
    /// If the two have gradients of different sizes for one parameter.
    pub fn add(&mut self, other: Self) {
        for (key, grad) in other.0 {
            match self.0.entry(key) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(grad);
                }
                std::collections::btree_map::Entry::Occupied(entry) => {
                    let sum = entry.into_mut();
                    assert_eq!(sum.len(), grad.len(), "gradients of different models");
                    sum.iter_mut().zip(grad).for_each(|(s, g)| *s += g);
                }
            }
        }
    }

    /// Multiplies every gradient, for example by one over the number of micro-batches.
    pub fn scale(&mut self, factor: f32) {
        for grad in self.0.values_mut() {
            grad.par_chunks_mut(CHUNK).for_each(|g| g.iter_mut().for_each(|g| *g *= factor));
        }
    }

    /// Euclidean norm over all parameters.
    pub fn norm(&self) -> f64 {
        self.0.values().map(|g| sum_of_squares(g)).sum::<f64>().sqrt()
    }

    /// Euclidean norm of each parameter's gradient.
    pub fn norms(&self) -> BTreeMap<Key, f64> {
        self.0.iter().map(|(key, g)| (*key, sum_of_squares(g).sqrt())).collect()
    }

    /// Scales all gradients down to a global norm of at most `max`; returns the norm before.
    pub fn clip(&mut self, max: f64) -> f64 {
        let norm = self.norm();
        if norm > max {
            self.scale((max / norm) as f32);
        }
        norm
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
