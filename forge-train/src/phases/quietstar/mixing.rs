//! The mixing head (Zelikman et al. 2024, section 4.3): how far the next token's prediction follows the thought.
//!
//! A three-layer ReLU network maps the two states `[h_base; h_thought]` that predict a token, without and with the
//! thought, to a weight `w`; the prediction's logits are `base + w (thought − base)`. The last layer starts at zero,
//! so training starts from the model that does not think, and thoughts gain influence as far as they help. The weight is
//! held in [0, 1]: beyond 1 a thought would be trusted more than the device trusts it. The head is a device of training:
//! at run time a thought stands in the context, and the prediction behind it is used.

use candle_core::{Device, Tensor, Var};
use candle_nn::ops::softmax;

use crate::error::Result;
use crate::rng::Rng;

/// Adam's decays and the constant below the root.
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.95;
const EPS: f32 = 1e-8;

/// The head with its optimiser.
#[derive(Clone)]
pub(super) struct MixingHead {
    dim: usize,
    lr: f32,
    step: u64,
    /// Weights and biases, layer by layer.
    params: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl MixingHead {
    /// A head over states of width `dim`, trained at rate `lr`.
    pub(super) fn new(dim: usize, lr: f32, seed: u64) -> Self {
        let mut rng = Rng::new(seed, &["phase3", "mixing"]);
        let mut params = Vec::new();
        for [rows, cols] in Self::shapes(dim) {
            let scale = if rows == 1 { 0.0 } else { (2.0 / cols as f32).sqrt() };
            params.extend((0..rows * cols).map(|_| scale * rng.normal()));
            params.extend(std::iter::repeat_n(0.0, rows));
        }
        let zeros = vec![0.0; params.len()];
        Self { dim, lr, step: 0, params, first: zeros.clone(), second: zeros }
    }

    /// Rows and columns of the layers' matrices.
    fn shapes(dim: usize) -> [[usize; 2]; 3] {
        [[dim, 2 * dim], [dim, dim], [1, dim]]
    }

    /// The parameters as variables: matrix and bias of each layer.
    fn variables(&self) -> Result<Vec<Var>> {
        let mut rest = self.params.as_slice();
        let mut out = Vec::new();
        for [rows, cols] in Self::shapes(self.dim) {
            for shape in [[rows, cols], [1, rows]] {
                let (values, behind) = rest.split_at(shape[0] * shape[1]);
                out.push(Var::from_slice(values, (shape[0], shape[1]), &Device::Cpu)?);
                rest = behind;
            }
        }
        Ok(out)
    }

    /// Weights `[n]` of pairs of states `[n, 2 dim]`.
    fn run(variables: &[Var], pairs: &Tensor) -> Result<Tensor> {
        let mut x = pairs.clone();
        for (i, layer) in variables.chunks(2).enumerate() {
            x = x.matmul(&layer[0].t()?)?.broadcast_add(&layer[1])?;
            if i < 2 {
                x = x.relu()?;
            }
        }
        Ok(x.squeeze(1)?)
    }

    /// Weights of pairs of states `[n, 2 dim]`, on the host.
    ///
    /// # Errors
    /// If the pairs have another width.
    pub(super) fn weights(&self, pairs: &Tensor) -> Result<Vec<f32>> {
        let raw = Self::run(&self.variables()?, pairs)?.to_vec1::<f32>()?;
        Ok(raw.into_iter().map(|w| w.clamp(0.0, 1.0)).collect())
    }

    /// A step of Adam along `slopes`, the derivatives of the loss by each weight.
    ///
    /// # Errors
    /// If pairs and slopes differ in number.
    pub(super) fn learn(&mut self, pairs: &Tensor, slopes: &[f32]) -> Result<()> {
        let variables = self.variables()?;
        let raw = Self::run(&variables, pairs)?;
        // At a bound only the way back counts; a slope that leads further out teaches nothing.
        let outward = |w: f32, slope: f32| (w <= 0.0 && slope > 0.0) || (w >= 1.0 && slope < 0.0);
        let held: Vec<f32> = (raw.to_vec1::<f32>()?.into_iter().zip(slopes))
            .map(|(w, slope)| if outward(w, *slope) { 0.0 } else { *slope })
            .collect();
        let held = Tensor::from_slice(&held, held.len(), &Device::Cpu)?;
        let grads = (raw * held)?.sum_all()?.backward()?;
        let mut gradient = Vec::with_capacity(self.params.len());
        for var in &variables {
            match grads.get(var) {
                Some(g) => gradient.extend(g.flatten_all()?.to_vec1::<f32>()?),
                None => gradient.extend(std::iter::repeat_n(0.0, var.elem_count())),
            }
        }
        self.step += 1;
        let correct = |beta: f32| 1.0 - beta.powi(self.step.min(10_000) as i32);
        let (correct1, correct2) = (correct(BETA1), correct(BETA2));
        for (i, g) in gradient.into_iter().enumerate() {
            self.first[i] = BETA1 * self.first[i] + (1.0 - BETA1) * g;
            self.second[i] = BETA2 * self.second[i] + (1.0 - BETA2) * g * g;
            let root = (self.second[i] / correct2).sqrt() + EPS;
            self.params[i] -= self.lr * self.first[i] / correct1 / root;
        }
        Ok(())
    }

    /// Everything that later steps depend on.
    pub(super) fn state(&self) -> Vec<f32> {
        let step = self.step as f32;
        [&[step], self.params.as_slice(), &self.first, &self.second].concat()
    }

    /// Puts back what [`MixingHead::state`] gave; false, without a change, when it is of another head.
    pub(super) fn restore(&mut self, state: &[f32]) -> bool {
        let n = self.params.len();
        let Some((step, rest)) = state.split_first().filter(|(_, rest)| rest.len() == 3 * n) else {
            return false;
        };
        self.step = *step as u64;
        self.params.copy_from_slice(&rest[..n]);
        self.first.copy_from_slice(&rest[n..2 * n]);
        self.second.copy_from_slice(&rest[2 * n..]);
        true
    }
}

/// `base + w (thought − base)`, row by row: logits `[n, vocab]` and a weight `[n]` a row.
///
/// # Errors
/// If the shapes differ.
pub(super) fn mix(base: &Tensor, thought: &Tensor, weights: &[f32]) -> Result<Tensor> {
    let weights = Tensor::from_slice(weights, (weights.len(), 1), base.device())?;
    Ok((base + (thought - base)?.broadcast_mul(&weights)?)?)
}

/// Derivatives of each row's cross-entropy by its weight: `Σ_v (p_v − [v = target]) (thought − base)_v`.
///
/// # Errors
/// If the shapes differ.
pub(super) fn slopes(base: &Tensor, thought: &Tensor, mixed: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    let difference = (thought - base)?;
    let expected = (softmax(mixed, 1)? * &difference)?.sum(1)?;
    let targets = Tensor::from_slice(targets, (targets.len(), 1), base.device())?;
    let at_target = difference.contiguous()?.gather(&targets, 1)?.squeeze(1)?;
    Ok((expected - at_target)?.to_vec1::<f32>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: usize, cols: usize, label: &str) -> Tensor {
        let mut rng = Rng::new(5, &[label]);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal()).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    }

    fn entropy_at(base: &Tensor, thought: &Tensor, w: &[f32], targets: &[u32]) -> Vec<f32> {
        let mixed = mix(base, thought, w).unwrap();
        crate::nn::loss::token_scores(&mixed, targets).unwrap().iter().map(|s| s.loss).collect()
    }

    #[test]
    fn a_new_head_follows_the_base_alone() {
        let head = MixingHead::new(4, 1e-2, 1);
        assert_eq!(head.weights(&tensor(3, 8, "pairs")).unwrap(), [0.0; 3]);
        let (base, thought) = (tensor(3, 6, "base"), tensor(3, 6, "thought"));
        let mixed = mix(&base, &thought, &[0.0; 3]).unwrap();
        assert_eq!(mixed.to_vec2::<f32>().unwrap(), base.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn slopes_are_those_of_finite_differences() {
        let (base, thought, targets) = (tensor(4, 6, "base"), tensor(4, 6, "thought"), [0, 5, 2, 2]);
        let w = [0.1, 0.9, -0.3, 1.4];
        let mixed = mix(&base, &thought, &w).unwrap();
        let found = slopes(&base, &thought, &mixed, &targets).unwrap();
        let (up, down) = (w.map(|v| v + 1e-2), w.map(|v| v - 1e-2));
        let up = entropy_at(&base, &thought, &up, &targets);
        let down = entropy_at(&base, &thought, &down, &targets);
        for ((slope, up), down) in found.iter().zip(up).zip(down) {
            assert!((slope - (up - down) / 2e-2).abs() < 1e-3, "{slope} {}", (up - down) / 2e-2);
        }
    }

    /// Thoughts that predict the target gain influence, those that predict something else do not.
    #[test]
    fn influence_goes_to_thoughts_that_help() {
        let pairs = tensor(16, 8, "pairs");
        let targets = vec![3u32; 16];
        let base = tensor(16, 6, "base");
        let mut helpful = vec![0.0f32; 16 * 6];
        (0..16).for_each(|i| helpful[i * 6 + 3] = 6.0);
        let helpful = Tensor::from_vec(helpful, (16, 6), &Device::Cpu).unwrap();
        let misleading = helpful.neg().unwrap();
        let influence = |thought: &Tensor| {
            let mut head = MixingHead::new(4, 1e-2, 1);
            for _ in 0..60 {
                let w = head.weights(&pairs).unwrap();
                let mixed = mix(&base, thought, &w).unwrap();
                head.learn(&pairs, &slopes(&base, thought, &mixed, &targets).unwrap()).unwrap();
            }
            head.weights(&pairs).unwrap().iter().sum::<f32>() / 16.0
        };
        let (helped, misled) = (influence(&helpful), influence(&misleading));
        assert!(helped > 0.5 && misled == 0.0, "{helped} {misled}");
    }

    #[test]
    fn a_restored_head_goes_on_as_the_saved_one() {
        let (pairs, slopes) = (tensor(5, 8, "pairs"), [0.3, -0.1, 0.2, 0.5, -0.4]);
        let mut head = MixingHead::new(4, 1e-2, 1);
        head.learn(&pairs, &slopes).unwrap();
        let mut other = MixingHead::new(4, 1e-2, 2);
        assert!(other.restore(&head.state()));
        head.learn(&pairs, &slopes).unwrap();
        other.learn(&pairs, &slopes).unwrap();
        assert_eq!(head.state(), other.state());
        assert!(!other.restore(&[0.0; 3]), "a state of another shape is refused");
    }
}
