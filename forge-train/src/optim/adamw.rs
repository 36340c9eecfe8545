//! AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, in place and in parallel.

use std::collections::BTreeMap;

use candle_core::Var;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gradients::CHUNK;
use super::{
    Array, Gradients, Optimizer, State, decays, load_map, load_step, moment, save_map, save_step, update,
    variable,
};
use crate::error::Result;
use crate::nn::ops::simd::vectorised;
use crate::weights::Key;

/// Hyper-parameters of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the mean of the gradient.
    pub beta1: f32,
    /// Decay of the mean of its square.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay, times the learning rate, of projections and tables.
    pub weight_decay: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

/// `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `w ← w − lr·(m̂/(√v̂ + ε) + wd·w)`.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    first: BTreeMap<Key, Array>,
    second: BTreeMap<Key, Array>,
}

/// Factors of one step, the same for all parameters but the decay.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) eps: f32,
    pub(super) lr: f32,
    pub(super) decay: f32,
    /// `1 / (1 − β₁ᵗ)`.
    pub(super) correct1: f32,
    /// `1 / (1 − β₂ᵗ)`.
    pub(super) correct2: f32,
}

impl AdamW {
    /// An optimiser without history.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, first: BTreeMap::new(), second: BTreeMap::new() }
    }

    /// Starts a step; all parameters of the step share its bias correction.
    pub(super) fn begin(&mut self) {
        self.step += 1;
    }

    /// Updates one variable in the step begun.
    pub(super) fn apply(&mut self, key: Key, var: &Var, grad: &Array, lr: f32) -> Result<()> {
        let c = self.config;
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(self.step as f64))) as f32;
        let factors = Factors {
            beta1: c.beta1,
            beta2: c.beta2,
            eps: c.eps,
            lr,
            decay: if decays(key.0) { c.weight_decay } else { 0.0 },
            correct1: correction(c.beta1),
            correct2: correction(c.beta2),
        };
        let (m, v) = (moment(&mut self.first, key, grad)?, moment(&mut self.second, key, grad)?);
        #[cfg(feature = "cuda")]
        if let Some(g) = grad.device() {
            return super::cuda::adamw(var, g, m.on_device()?, v.on_device()?, factors);
        }
        let (grad, m, v) = (grad.host()?, m.host_mut()?, v.host_mut()?);
        update(var, |w| {
            w.par_chunks_mut(CHUNK)
                .zip(grad.par_chunks(CHUNK))
                .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                .for_each(|((w, g), (m, v))| adam(factors, w, g, m, v));
        })
    }
}

vectorised! {
fn adam(f: Factors, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let n = w.len();
    let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        m[i] = f.beta1 * m[i] + (1.0 - f.beta1) * g[i];
        v[i] = f.beta2 * v[i] + (1.0 - f.beta2) * (g[i] * g[i]);
        let direction = m[i] * f.correct1 / ((v[i] * f.correct2).sqrt() + f.eps);
        w[i] -= f.lr * (direction + f.decay * w[i]);
    }
}
}

impl Optimizer for AdamW {
    fn step(&mut self, vars: &BTreeMap<Key, Var>, grads: &Gradients, lr: f32) -> Result<()> {
        self.begin();
        for (key, grad) in grads.iter() {
            self.apply(*key, variable(vars, key, grad)?, grad, lr)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let mut state = State::new();
        save_step("adamw.step", self.step, &mut state);
        save_map("adamw.m.", &self.first, &mut state)?;
        save_map("adamw.v.", &self.second, &mut state)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.step = load_step("adamw.step", state)?;
        self.first = load_map("adamw.m.", state)?;
        self.second = load_map("adamw.v.", state)?;
        Ok(())
    }
}
