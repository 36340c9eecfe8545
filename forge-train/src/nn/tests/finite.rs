//! Gradients of the fused operations against finite differences, in f64 throughout, of a plain model written in f64.

use std::collections::BTreeMap;

use forge_formats::role::Role;

use super::*;
use crate::nn::ops::dropout::Mask;
use crate::nn::{Dropout, ForwardOptions};
use crate::weights::Key;

/// A batch of one sequence, and what is dropped.
struct Case {
    config: ModelConfig,
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    dropout: Option<Dropout>,
}

type Parameters = BTreeMap<Key, Vec<f64>>;

fn norm(x: &[f64], eps: f32, gain: Option<&[f64]>) -> Vec<f64> {
    let inverse = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + f64::from(eps)).sqrt().recip();
    x.iter().enumerate().map(|(i, v)| v * inverse * gain.map_or(1.0, |g| g[i])).collect()
}

fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// Rotates a head in half-split layout.
fn rotate(x: &[f64], position: usize, log2_theta: f32) -> Vec<f64> {
    let half = x.len() / 2;
    let angle = |i: usize| position as f64 * 2f64.powf(-f64::from(log2_theta) * i as f64 / half as f64);
    let first = (0..half).map(|i| x[i] * angle(i).cos() - x[i + half] * angle(i).sin());
    first.chain((0..half).map(|i| x[i + half] * angle(i).cos() + x[i] * angle(i).sin())).collect()
}

impl Case {
    fn gain<'p>(&self, parameters: &'p Parameters, role: Role, layer: u32) -> Option<&'p [f64]> {
        parameters.get(&(role, layer)).map(Vec::as_slice)
    }

    /// Attention of one sequence over its rows of queries, keys and values.
    fn attention(&self, qkv: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let c = &self.config;
        let (d, heads, kv_heads) = (c.head_dim as usize, c.heads as usize, c.kv_heads as usize);
        let part = |p: usize, index: usize| &qkv[p][index * d..(index + 1) * d];
        let attend = |p: usize, head: usize| {
            let kv = head / (heads / kv_heads);
            let q = rotate(part(p, head), p, c.rope_log2_theta);
            let seen = (p + 1).saturating_sub(c.window as usize)..p + 1;
            let score = |j: usize| {
                let k = rotate(part(j, heads + kv), j, c.rope_log2_theta);
                (q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()).exp()
            };
            let e: Vec<f64> = seen.clone().map(score).collect();
            let total: f64 = e.iter().sum();
            let value = move |i: usize| {
                seen.clone().zip(&e).map(|(j, e)| e / total * part(j, heads + kv_heads + kv)[i]).sum::<f64>()
            };
            (0..d).map(value).collect::<Vec<f64>>()
        };
        (0..qkv.len()).map(|p| (0..heads).flat_map(|head| attend(p, head)).collect()).collect()
    }

    fn activate(&self, hidden: &[f64]) -> Vec<f64> {
        let (f, w) = hidden.split_at(hidden.len() / 2);
        let act = |f: f64| match self.config.activation {
            Activation::SwiGlu => f / (1.0 + (-f).exp()),
            Activation::Relu2 => f.max(0.0).powi(2),
        };
        f.iter().zip(w).map(|(f, w)| act(*f) * w).collect()
    }

    /// `u += mask ⊙ W · norm(x)`, row by row.
    fn residual(&self, w: &[f64], x: &[Vec<f64>], mask: Option<Mask>, u: &mut [Vec<f64>]) {
        let size = u.len() * u[0].len();
        let factors = mask.map_or(vec![1.0; size], |mask| mask.applied(&vec![1.0; size]));
        for ((u, x), factors) in u.iter_mut().zip(x).zip(factors.chunks(size / x.len())) {
            let y = product(w, &norm(x, self.config.norm_eps, None));
            u.iter_mut().zip(y).zip(factors).for_each(|((u, y), f)| *u += y * f64::from(*f));
        }
    }

    fn loss(&self, p: &Parameters) -> f64 {
        let (c, eps) = (&self.config, self.config.norm_eps);
        let dim = c.dim as usize;
        let row = |id: u32| norm(&p[&(Role::Embedding, 0)][id as usize * dim..][..dim], eps, None);
        let mut u: Vec<Vec<f64>> = self.ids.iter().map(|id| row(*id)).collect();
        if let Some(dropout) = &self.dropout {
            let factors = Mask::embedding(dropout).unwrap().applied(&vec![1.0; u.len() * dim]);
            u.iter_mut().flatten().zip(factors).for_each(|(u, f)| *u *= f64::from(f));
        }
        for l in 0..c.layers {
            let masks = self.dropout.as_ref().map(|dropout| Mask::branches(dropout, l).unwrap());
            let into = |u: &[Vec<f64>], gain, matrix| -> Vec<Vec<f64>> {
                u.iter().map(|u| product(&p[&(matrix, l)], &norm(u, eps, self.gain(p, gain, l)))).collect()
            };
            let attended = self.attention(&into(&u, Role::AttnNorm, Role::Qkv));
            self.residual(&p[&(Role::AttnOut, l)], &attended, masks.map(|[mask, _]| mask), &mut u);
            let hidden = into(&u, Role::FfnNorm, Role::GateUp);
            let gated: Vec<Vec<f64>> = hidden.iter().map(|h| self.activate(h)).collect();
            self.residual(&p[&(Role::Down, l)], &gated, masks.map(|[_, mask]| mask), &mut u);
        }
        let head = if c.tied { Role::Embedding } else { Role::Head };
        let mut sum = 0.0;
        for ((u, target), weight) in u.iter().zip(&self.targets).zip(&self.weights) {
            let logits = product(&p[&(head, 0)], &norm(u, eps, self.gain(p, Role::FinalNorm, 0)));
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            sum += f64::from(*weight) * (total.ln() - logits[*target as usize]);
        }
        sum / self.weights.iter().map(|w| f64::from(*w)).sum::<f64>()
    }

    /// Largest difference between analytic and numeric gradients of some elements of every parameter, relative to the
    /// parameter's largest gradient; `scale` multiplies the analytic ones.
    fn worst(&self, scale: f64) -> f64 {
        let weights = weights(&self.config, 7);
        let net = Network::new(&weights, Precision::FLOAT, &Device::Cpu).unwrap().for_backward();
        let batch = Tensor::from_slice(&self.ids, (1, self.ids.len()), &Device::Cpu).unwrap();
        let options = ForwardOptions { halting: false, dropout: self.dropout };
        let forward = net.forward(&batch, options).unwrap();
        let loss = net.cross_entropy(forward.answer(), &self.targets, &self.weights).unwrap();
        let grads = net.gradients(&loss).unwrap();
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let mut p: Parameters = weights.tensors.iter().map(|(key, m)| (*key, wide(&m.data))).collect();
        assert!((self.loss(&p) - f64::from(loss.to_scalar::<f32>().unwrap())).abs() < 1e-5);
        let mut worst = 0.0f64;
        for key in p.keys().copied().collect::<Vec<_>>() {
            let analytic = wide(grads.get(&key).unwrap());
            let size = analytic.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            assert!(size > 0.0, "{key:?} has no gradient");
            for i in (0..analytic.len()).step_by(analytic.len().div_ceil(9)) {
                let (at, h) = (p[&key][i], 1e-5);
                let mut shifted = |by: f64| {
                    p.get_mut(&key).unwrap()[i] = at + by;
                    self.loss(&p)
                };
                let numeric = (shifted(h) - shifted(-h)) / (2.0 * h);
                shifted(0.0);
                worst = worst.max((numeric - scale * analytic[i]).abs() / size);
            }
        }
        worst
    }
}

fn cases() -> Vec<Case> {
    let plain = ModelConfig { halting: false, recursion: 1, mem_dim: 0, mem_layers: 0, ..small() };
    let other = ModelConfig { tied: true, activation: Activation::Relu2, window: 64, ..plain.clone() };
    let dropout = Some(Dropout { rate: 0.3, seed: 4, step: 5, part: 1 });
    [(plain.clone(), None), (other, None), (plain, dropout)]
        .map(|(config, dropout)| {
            let (_, ids) = ids(&config, 1, 9, 3);
            let targets = ids.iter().map(|id| (id * 7 + 3) % config.vocab).collect();
            let weights = (0..9).map(|i| [1.0, 0.0, 0.5][i % 3]).collect();
            Case { config, ids, targets, weights, dropout }
        })
        .into()
}

#[test]
fn fused_gradients_are_those_of_finite_differences() {
    for (i, case) in cases().iter().enumerate() {
        let worst = case.worst(1.0);
        assert!(worst < 1e-4, "case {i}: {worst:.1e}");
    }
}

#[test]
fn the_check_sees_gradients_wrong_by_a_thousandth() {
    assert!(cases()[0].worst(1.001) > 5e-4);
}
