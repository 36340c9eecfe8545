//! Losses over logits, each a weighted mean that yields one number.

use std::sync::Arc;

use candle_core::{Result, Shape, bail};
use rayon::prelude::*;

use super::simd::vectorised;
use super::{Arg, HostData, Op, ROWS};
use forge_runtime::math;

/// `Σ w·loss / Σ w` of a batch, 0 when no weight is positive.
#[derive(Clone)]
pub(crate) struct Weighting {
    weights: Arc<HostData<f32>>,
    inverse_total: f64,
}

impl Weighting {
    /// Weights of each row.
    pub(crate) fn new(weights: Vec<f32>) -> Self {
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let inverse_total = if total > 0.0 { 1.0 / total } else { 0.0 };
        Self { weights: Arc::new(weights.into()), inverse_total }
    }

    /// Weight of each row.
    #[cfg(feature = "cuda")]
    pub(super) fn weights(&self) -> &HostData<f32> {
        &self.weights
    }

    /// `1 / Σ w`, 0 when no weight is positive.
    #[cfg(feature = "cuda")]
    pub(super) fn inverse_total(&self) -> f64 {
        self.inverse_total
    }

    /// Weight of a row, and its share in the mean.
    pub(super) fn of(&self, row: usize) -> (f64, f32) {
        let weight = f64::from(self.weights[row]);
        (weight, (weight * self.inverse_total) as f32)
    }

    /// The mean, given the weighted sum of losses.
    pub(super) fn finish(&self, sum: f64) -> f32 {
        (sum * self.inverse_total) as f32
    }

    fn check(&self, rows: usize) -> Result<()> {
        if self.weights.len() == rows {
            return Ok(());
        }
        bail!("loss over {rows} rows with {} weights", self.weights.len())
    }

    /// Weighted mean of `loss(row, scratch)` over rows of `width` logits; rows of weight 0 are not computed.
    fn mean(
        &self,
        logits: &[f32],
        width: usize,
        loss: impl Fn(usize, &[f32], &mut [f32]) -> f32 + Sync,
    ) -> f32 {
        let partials: Vec<f64> = logits
            .par_chunks(ROWS * width)
            .enumerate()
            .map(|(chunk, logits)| {
                let mut scratch = vec![0.0; width];
                let mut sum = 0.0;
                for (r, row) in logits.chunks_exact(width).enumerate() {
                    let at = chunk * ROWS + r;
                    if self.weights[at] != 0.0 {
                        sum += f64::from(self.weights[at]) * f64::from(loss(at, row, &mut scratch));
                    }
                }
                sum
            })
            .collect();
        (partials.iter().sum::<f64>() * self.inverse_total) as f32
    }

    /// Gradient whose rows are `gradient(row, factor, out)`, `factor` being the row's weight in the mean.
    fn gradient(
        &self,
        logits: &[f32],
        width: usize,
        upstream: f32,
        gradient: impl Fn(usize, &[f32], f32, &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let mut out = vec![0.0; logits.len()];
        out.par_chunks_mut(ROWS * width).zip(logits.par_chunks(ROWS * width)).enumerate().for_each(
            |(chunk, (out, logits))| {
                let rows = out.chunks_exact_mut(width).zip(logits.chunks_exact(width));
                for (r, (out, row)) in rows.enumerate() {
                    let at = chunk * ROWS + r;
                    if self.weights[at] != 0.0 {
                        let share = f64::from(self.weights[at]) * self.inverse_total;
                        gradient(at, row, upstream * share as f32, out);
                    }
                }
            },
        );
        out
    }
}

vectorised! {
/// Writes `exp((x − max x) · inverse_temperature)`; returns its sum and the maximum.
fn exponentials(x: &[f32], inverse_temperature: f32, e: &mut [f32]) -> (f32, f32) {
    let max = math::max(x);
    for (e, x) in e.iter_mut().zip(x) {
        *e = math::exp((x - max) * inverse_temperature);
    }
    (math::sum16(e), max)
}

/// As [`exponentials`] at temperature 1, overwriting `x`.
fn exponentials_in_place(x: &mut [f32]) -> (f32, f32) {
    let max = math::max(x);
    x.iter_mut().for_each(|x| *x = math::exp(*x - max));
    (math::sum16(x), max)
}

/// `Σ e (a − b) factor + e constant`, overwriting `e` by its terms.
fn weighted_difference(a: &[f32], b: &[f32], factor: f32, constant: f32, e: &mut [f32]) -> f32 {
    for ((e, a), b) in e.iter_mut().zip(a).zip(b) {
        *e *= (a - b) * factor + constant;
    }
    math::sum16(e)
}

fn scale_by(factor: f32, x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// `x ← a x − b p`.
fn scale_and_subtract(a: f32, p: &[f32], b: f32, x: &mut [f32]) {
    for (x, p) in x.iter_mut().zip(p) {
        *x = *x * a - p * b;
    }
}
}

/// `−log softmax(x)[target]`.
pub(crate) fn negative_log_likelihood(x: &[f32], target: usize, scratch: &mut [f32]) -> f32 {
    let (sum, max) = exponentials(x, 1.0, scratch);
    max + sum.ln() - x[target]
}

/// Weighted mean cross entropy; operand logits `[n, vocab]`.
pub(crate) struct CrossEntropy {
    /// Target id of each row.
    pub(crate) targets: Arc<HostData<u32>>,
    /// Weight of each row.
    pub(crate) weighting: Weighting,
}

impl CrossEntropy {
    /// Refuses logits of other extents than the targets ask for.
    pub(super) fn check(&self, rows: usize, vocab: usize) -> Result<()> {
        self.weighting.check(rows)?;
        if self.targets.len() != rows || self.targets.iter().any(|t| *t as usize >= vocab) {
            bail!("{} targets for {rows} rows, or one outside the vocabulary of {vocab}", self.targets.len());
        }
        Ok(())
    }
}

/// Turns a row of logits into the gradient of its cross entropy, times `factor`; returns the cross entropy.
pub(super) fn cross_entropy_row(target: usize, factor: f32, row: &mut [f32]) -> f32 {
    let of_target = row[target];
    let (sum, max) = exponentials_in_place(row);
    scale_by(factor / sum, row);
    row[target] -= factor;
    max + sum.ln() - of_target
}

impl Op<1> for CrossEntropy {
    const NAME: &'static str = "cross-entropy";

    fn forward(&self, [x]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        self.check(x.rows(), x.width())?;
        let loss = self.weighting.mean(x.data, x.width(), |r, row, scratch| {
            negative_log_likelihood(row, self.targets[r] as usize, scratch)
        });
        Ok((vec![loss], Shape::from(())))
    }

    fn backward(
        &self,
        [x]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let dx = self.weighting.gradient(x.data, x.width(), grad[0], |r, row, factor, out| {
            let (sum, _) = exponentials(row, 1.0, out);
            let scale = factor / sum;
            scale_by(scale, out);
            out[self.targets[r] as usize] -= factor;
        });
        Ok([Some(dx)])
    }
}

/// Weighted mean of `τ² KL(softmax(teacher/τ) ‖ softmax(student/τ))` (Hinton et al. 2015, whose τ² keeps the
/// size of the gradient); operands student and teacher logits `[n, vocab]`. No gradient reaches the teacher.
pub(crate) struct Divergence {
    /// Temperature τ.
    pub(crate) temperature: f32,
    /// Weight of each row.
    pub(crate) weighting: Weighting,
}

impl Divergence {
    /// Refuses logits of other extents than the weights', and a temperature without meaning.
    pub(super) fn check(&self, rows: usize, student: &[usize], teacher: &[usize]) -> Result<()> {
        self.weighting.check(rows)?;
        if teacher != student || self.temperature.is_nan() || self.temperature <= 0.0 {
            bail!("teacher logits of the wrong size, or a temperature that is not positive");
        }
        Ok(())
    }
}

impl Op<2> for Divergence {
    const NAME: &'static str = "kl-divergence";

    fn forward(&self, [x, teacher]: [Arg<'_>; 2]) -> Result<(Vec<f32>, Shape)> {
        self.check(x.rows(), x.dims, teacher.dims)?;
        let (width, inverse) = (x.width(), 1.0 / self.temperature);
        let loss = self.weighting.mean(x.data, width, |r, student, e| {
            let teacher = &teacher.data[r * width..(r + 1) * width];
            let (student_sum, student_max) = exponentials(student, inverse, e);
            let (sum, max) = exponentials(teacher, inverse, e);
            // log p_T − log p_S = (x_T − x_S)/τ + constant
            let constant = (student_max - max) * inverse + student_sum.ln() - sum.ln();
            weighted_difference(teacher, student, inverse, constant, e) / sum
        });
        Ok((vec![loss * self.temperature * self.temperature], Shape::from(())))
    }

    fn backward(
        &self,
        [x, teacher]: [Arg<'_>; 2],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 2],
    ) -> Result<[Option<Vec<f32>>; 2]> {
        let (width, inverse) = (x.width(), 1.0 / self.temperature);
        let dx =
            self.weighting.gradient(x.data, width, grad[0] * self.temperature, |r, student, factor, out| {
                let teacher = &teacher.data[r * width..(r + 1) * width];
                let mut p = vec![0.0; width];
                let (sum, _) = exponentials(teacher, inverse, &mut p);
                let (student_sum, _) = exponentials(student, inverse, out);
                let (a, b) = (factor / student_sum, factor / sum);
                scale_and_subtract(a, &p, b, out);
            });
        Ok([Some(dx), None])
    }
}

/// Weighted mean binary cross entropy of `sigmoid(x)` against targets in [0, 1]; operand logits `[n]`.
pub(crate) struct BinaryCrossEntropy {
    /// Target of each row.
    pub(crate) targets: Arc<HostData<f32>>,
    /// Weight of each row.
    pub(crate) weighting: Weighting,
}

impl BinaryCrossEntropy {
    /// Refuses another number of logits than there are targets.
    pub(super) fn check(&self, logits: usize) -> Result<()> {
        self.weighting.check(logits)?;
        if self.targets.len() != logits {
            bail!("{} targets for {logits} logits", self.targets.len());
        }
        Ok(())
    }
}

impl Op<1> for BinaryCrossEntropy {
    const NAME: &'static str = "binary-cross-entropy";

    fn forward(&self, [x]: [Arg<'_>; 1]) -> Result<(Vec<f32>, Shape)> {
        self.check(x.data.len())?;
        let loss = self.weighting.mean(x.data, 1, |r, x, _| {
            // max(x, 0) − x·target + log(1 + exp(−|x|)), which does not overflow
            x[0].max(0.0) - x[0] * self.targets[r] + math::exp(-x[0].abs()).ln_1p()
        });
        Ok((vec![loss], Shape::from(())))
    }

    fn backward(
        &self,
        [x]: [Arg<'_>; 1],
        _result: &[f32],
        grad: &[f32],
        _wanted: [bool; 1],
    ) -> Result<[Option<Vec<f32>>; 1]> {
        let dx = self.weighting.gradient(x.data, 1, grad[0], |r, x, factor, out| {
            out[0] = factor * (math::sigmoid(x[0]) - self.targets[r]);
        });
        Ok([Some(dx)])
    }
}
