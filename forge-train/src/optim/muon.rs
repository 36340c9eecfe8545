//! Muon (Jordan et al. 2024): momentum whose matrix is replaced by the nearest semi-orthogonal one, found by a
//! Newton–Schulz iteration. For projections only; everything else goes to AdamW.

use std::collections::BTreeMap;

use candle_core::Var;
use forge_formats::config::{MemoryKind, ModelConfig};
use forge_formats::role::{Role, RoleKind};
use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, AdamWConfig};
use super::{Array, Gradients, Optimizer, State, load_map, moment, save_map, update, variable};
use crate::error::Result;
use crate::nn::ops::gemm::{Mat, MatMut, Threads, multiply};
use crate::weights::Key;

/// Coefficients of the quintic iteration, which maximise the slope at zero.
pub(super) const QUINTIC: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);

/// How large an orthogonalised update is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuonScale {
    /// `sqrt(max(1, rows/cols))` (Jordan): a learning rate in units of spectral norm, about 0.02.
    Spectral,
    /// `0.2 sqrt(max(rows, cols))` (Liu et al. 2025, arXiv 2502.16982): updates as large as AdamW's, so that one
    /// learning rate and weight decay serve both.
    MatchAdamW,
}

/// Hyper-parameters of [`Muon`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Decay of the momentum.
    pub beta: f32,
    /// Newton–Schulz iterations.
    pub iterations: u32,
    /// Size of the update.
    pub scale: MuonScale,
    /// Decoupled decay, times the learning rate.
    pub weight_decay: f32,
    /// Learning rate of everything that is not a projection, relative to the projections'.
    pub rest_rate: f32,
    /// Optimiser of everything that is not a projection.
    pub rest: AdamWConfig,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self {
            beta: 0.95,
            iterations: 5,
            scale: MuonScale::MatchAdamW,
            weight_decay: 0.1,
            rest_rate: 1.0,
            rest: AdamWConfig::default(),
        }
    }
}

/// `m ← βm + (1−β)g`, `u = (1−β)g + βm` (Nesterov), `w ← (1 − lr·wd)w − lr·scale·orthogonal(u)`.
///
/// Fused projections are several maps that share their input, so each part is orthogonalised on its own.
#[derive(Clone, Debug)]
pub struct Muon {
    config: MuonConfig,
    model: ModelConfig,
    momentum: BTreeMap<Key, Array>,
    rest: AdamW,
}

impl Muon {
    /// An optimiser without history for models of this shape.
    pub fn new(config: MuonConfig, model: &ModelConfig) -> Self {
        Self { config, model: model.clone(), momentum: BTreeMap::new(), rest: AdamW::new(config.rest) }
    }

    /// Rows of the parts a fused projection consists of.
    fn parts(&self, role: Role, rows: usize) -> Vec<usize> {
        let c = &self.model;
        match role {
            Role::Qkv => vec![c.attn_dim() as usize, c.kv_dim() as usize, c.kv_dim() as usize],
            Role::GateUp => vec![rows / 2, rows / 2],
            Role::MemIn if c.memory == MemoryKind::Titans => {
                let width = c.mem_dim as usize;
                vec![width, width, width, rows - 3 * width]
            }
            Role::MemIn => vec![rows / 2, rows / 2],
            _ => vec![rows],
        }
    }

    fn project(&mut self, key: Key, var: &Var, grad: &Array, lr: f32) -> Result<()> {
        let c = self.config;
        let (rows, cols) = var.dims2()?;
        let parts = self.parts(key.0, rows);
        let m = moment(&mut self.momentum, key, grad)?.host_mut()?;
        let grad = grad.host()?;
        let mut direction = vec![0.0; grad.len()];
        for ((u, m), g) in direction.iter_mut().zip(m.iter_mut()).zip(grad) {
            *m += (1.0 - c.beta) * (g - *m);
            *u = g + c.beta * (*m - g);
        }
        let mut rest = direction.as_mut_slice();
        for part in parts {
            let (head, tail) = rest.split_at_mut(part * cols);
            orthogonalise(head, part, cols, c.iterations);
            let scale = c.scale.factor(part, cols);
            head.iter_mut().for_each(|u| *u *= scale);
            rest = tail;
        }
        update(var, |w| {
            for (w, u) in w.iter_mut().zip(&direction) {
                *w = *w * (1.0 - lr * c.weight_decay) - lr * u;
            }
        })
    }
}

#[cfg(feature = "cuda")]
impl Muon {
    /// The maps of one projection on a device, to be orthogonalised together with those of like shape.
    fn maps(&mut self, key: Key, var: &Var, grad: &Array) -> Result<Vec<super::cuda::Map>> {
        let (rows, cols) = var.dims2()?;
        let parts = self.parts(key.0, rows);
        let momentum = moment(&mut self.momentum, key, grad)?.on_device()?.clone();
        let mut first = 0;
        let mut maps = Vec::new();
        for rows in parts {
            maps.push(super::cuda::Map {
                weight: var.as_tensor().clone(),
                gradient: grad.on_device()?.clone(),
                momentum: momentum.clone(),
                first,
                shape: [rows, cols],
                scale: self.config.scale.factor(rows, cols),
            });
            first += rows * cols;
        }
        Ok(maps)
    }
}

impl MuonScale {
    fn factor(self, rows: usize, cols: usize) -> f32 {
        match self {
            MuonScale::Spectral => (rows as f32 / cols as f32).max(1.0).sqrt(),
            MuonScale::MatchAdamW => 0.2 * (rows.max(cols) as f32).sqrt(),
        }
    }
}

/// Replaces `x [rows, cols]` by about `U Vᵀ` of its singular value decomposition: singular values end within
/// [0.7, 1.2] after five iterations.
fn orthogonalise(x: &mut [f32], rows: usize, cols: usize, iterations: u32) {
    let (a, b, c) = QUINTIC;
    let norm = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
    x.iter_mut().for_each(|v| *v /= norm + 1e-7);
    // The Gram matrix is taken on the short side: X (Xᵀ X) is (X Xᵀ) X.
    let short = rows.min(cols);
    let (mut gram, mut poly) = (vec![0.0; short * short], vec![0.0; short * short]);
    let mut next = vec![0.0; x.len()];
    for _ in 0..iterations {
        let m = Mat::new(x, rows, cols);
        let (left, right) = if rows <= cols { (m, m.t()) } else { (m.t(), m) };
        multiply(MatMut::new(&mut gram, short, short), left, right, 1.0, false, Threads::All);
        poly.iter_mut().zip(&gram).for_each(|(p, g)| *p = b * g);
        let g = Mat::new(&gram, short, short);
        multiply(MatMut::new(&mut poly, short, short), g, g, c, true, Threads::All);
        next.iter_mut().zip(x.iter()).for_each(|(n, x)| *n = a * x);
        let p = Mat::new(&poly, short, short);
        let (left, right) = if rows <= cols { (p, m) } else { (m, p) };
        multiply(MatMut::new(&mut next, rows, cols), left, right, 1.0, true, Threads::All);
        x.copy_from_slice(&next);
    }
}

impl Optimizer for Muon {
    fn step(&mut self, vars: &BTreeMap<Key, Var>, grads: &Gradients, lr: f32) -> Result<()> {
        self.rest.begin();
        #[cfg(feature = "cuda")]
        let mut maps = Vec::new();
        for (key, grad) in grads.iter() {
            let var = variable(vars, key, grad)?;
            #[cfg(feature = "cuda")]
            if key.0.kind() == RoleKind::Projection && grad.device().is_some() {
                maps.extend(self.maps(*key, var, grad)?);
                continue;
            }
            if key.0.kind() == RoleKind::Projection {
                self.project(*key, var, grad, lr)?;
            } else {
                self.rest.apply(*key, var, grad, lr * self.config.rest_rate)?;
            }
        }
        #[cfg(feature = "cuda")]
        super::cuda::muon(maps, &self.config, lr)?;
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let mut state = self.rest.state()?;
        save_map("muon.m.", &self.momentum, &mut state)?;
        Ok(state)
    }

    fn restore(&mut self, state: &State) -> Result<()> {
        self.rest.restore(state)?;
        self.momentum = load_map("muon.m.", state)?;
        Ok(())
    }
}
