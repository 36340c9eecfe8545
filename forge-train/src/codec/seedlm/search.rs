//! The search for a block's best seed, exponent and coefficients.

use crate::codec::seedlm::basis::{Basis, at};

/// Blocks searched at once, so that each pass over the bases serves several.
pub(super) const BATCH: usize = 8;

/// What the bitstream stores of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Code {
    pub(super) seed: u32,
    pub(super) exponent: i32,
    pub(super) coeffs: [i32; 4],
    /// Weighted squared error, in units of the tensor exponent.
    pub(super) error: f32,
}

impl Default for Code {
    /// A block of zeros.
    fn default() -> Self {
        Self { seed: 1, exponent: -8, coeffs: [0; 4], error: 0.0 }
    }
}

/// Searches batches of blocks; holds their scratch memory.
pub(super) struct Searcher<'a> {
    basis: &'a Basis,
    energies: Vec<Vec<f32>>,
}

impl<'a> Searcher<'a> {
    pub(super) fn new(basis: &'a Basis) -> Self {
        Self { basis, energies: vec![vec![0.0; basis.len()]; BATCH] }
    }

    /// The best code of each of at most [`BATCH`] blocks.
    pub(super) fn search(&mut self, mut blocks: Vec<Vec<f32>>) -> Vec<Code> {
        for block in &mut blocks {
            block.iter_mut().zip(&self.basis.roots).for_each(|(w, root)| *w *= root);
        }
        self.basis.energies(&blocks, &mut self.energies);
        blocks.iter().zip(&self.energies).map(|(block, energies)| self.best(block, energies)).collect()
    }

    /// Quantises the seed of the highest energy, then those whose bound is a quarter of the way from its
    /// bound to the best error, then all that could still win. Ties go to the seed met first.
    fn best(&self, block: &[f32], energies: &[f32]) -> Code {
        let total: f32 = block.iter().map(|w| w * w).sum();
        // Bounds carry rounding errors of some millionths of the total.
        let slack = total * 1e-5;
        let mut best = Code { error: total, ..Code::default() };
        let first = (0..energies.len()).fold(0, |top, i| if energies[i] > energies[top] { i } else { top });
        self.quantise(first, block, total - energies[first], &mut best);
        for share in [0.25, 1.0] {
            let lowest = total - energies[first];
            let reach = total - (lowest + share * (best.error - lowest));
            for (slot, &energy) in energies.iter().enumerate() {
                if energy > reach - slack && total - energy - slack < best.error {
                    self.quantise(slot, block, total - energy, &mut best);
                }
            }
        }
        best
    }

    /// Quantises the coefficients of one seed under the three exponents around the one that makes the largest
    /// coefficient 4 to 8, and keeps the result if it is the best.
    ///
    /// Coefficients are rounded one after another, each to make up for the rounding of those before it
    /// (Babai's nearest plane); `bound` is the part of the error no coefficients can remove.
    pub(super) fn quantise(&self, slot: usize, block: &[f32], bound: f32, best: &mut Code) {
        let (count, r) = (self.basis.coeffs, self.basis.factor(slot));
        let z = self.basis.project(slot, block);
        let largest = largest_coefficient(count, r, &z);
        if largest == 0.0 {
            return;
        }
        let exponent = floor_log2(largest) - 2;
        let mut tried = None;
        for shift in [0, -1, 1] {
            let exponent = (exponent + shift).clamp(-8, 7);
            if tried.replace(exponent) == Some(exponent) {
                continue;
            }
            let unit = f32::from_bits(((127 + exponent) as u32) << 23);
            let mut q = [0.0f32; 4];
            let mut error = bound.max(0.0);
            for p in (0..count).rev() {
                let target = (p + 1..count).fold(z[p], |left, j| left - r[at(p, j)] * unit * q[j]);
                let step = r[at(p, p)] * unit;
                if step > 0.0 {
                    q[p] = (target / step).round().clamp(-8.0, 7.0);
                }
                error += (target - step * q[p]) * (target - step * q[p]);
            }
            if error < best.error {
                *best = Code { seed: slot as u32 + 1, exponent, coeffs: q.map(|q| q as i32), error };
            }
        }
    }
}

/// Largest magnitude of the unquantised coefficients `R⁻¹ z`.
fn largest_coefficient(count: usize, r: &[f32], z: &[f32; 4]) -> f32 {
    let mut t = [0.0f32; 4];
    for p in (0..count).rev() {
        let rest = (p + 1..count).fold(z[p], |left, j| left - r[at(p, j)] * t[j]);
        let step = r[at(p, p)];
        t[p] = if step > 0.0 { rest / step } else { 0.0 };
    }
    t.iter().fold(0.0, |most, t| most.max(t.abs()))
}

/// `floor(log2 x)` of a positive number, −127 for the smallest.
fn floor_log2(x: f32) -> i32 {
    (x.to_bits() >> 23) as i32 - 127
}
