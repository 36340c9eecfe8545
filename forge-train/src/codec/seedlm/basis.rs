//! Orthonormal bases of the spaces that all seeds span.

use forge_formats::codec::SeedLmParams;
use forge_formats::codec::seedlm::Lfsr;
use rayon::prelude::*;

/// Seeds whose numbers are stored side by side, for vector instructions.
pub(super) const LANES: usize = 16;
/// Entries of the largest triangular factor.
pub(super) const TRIANGLE: usize = 10;

/// `diag(roots) · U(s) = Q R` of every seed `s`.
pub(super) struct Basis {
    pub(super) block: usize,
    pub(super) coeffs: usize,
    /// Square root of each element's importance.
    pub(super) roots: Vec<f32>,
    /// Q: for each group of seeds, coefficient by coefficient, element by element. Slot `i` is seed `i + 1`;
    /// the last slot is spare and zero.
    q: Vec<[f32; LANES]>,
    /// R of each slot, upper triangle column by column.
    r: Vec<[f32; TRIANGLE]>,
}

/// Where `R[row][column]` lies, `row <= column`.
pub(super) fn at(row: usize, column: usize) -> usize {
    column * (column + 1) / 2 + row
}

impl Basis {
    /// Factorises the bases of all seeds of valid parameters.
    pub(super) fn new(p: &SeedLmParams, roots: &[f32]) -> Self {
        let (block, coeffs) = (usize::from(p.block), usize::from(p.coeffs));
        let seeds = 1usize << p.bits;
        let mut q = vec![[0.0; LANES]; seeds / LANES * block * coeffs];
        let mut r = vec![[0.0; TRIANGLE]; seeds];
        let groups = q.par_chunks_mut(block * coeffs).zip(r.par_chunks_mut(LANES)).enumerate();
        groups.for_each(|(group, (q, r))| {
            for (lane, r) in r.iter_mut().enumerate() {
                let seed = (group * LANES + lane + 1) as u32;
                if seed as usize == seeds {
                    continue;
                }
                let mut columns = columns(p, seed, roots);
                orthonormalise(&mut columns, r);
                for (slot, value) in q.iter_mut().zip(columns.iter().flatten()) {
                    slot[lane] = *value as f32;
                }
            }
        });
        Self { block, coeffs, roots: roots.to_vec(), q, r }
    }

    /// Slots, the spare one included.
    pub(super) fn len(&self) -> usize {
        self.r.len()
    }

    /// R of a slot.
    pub(super) fn factor(&self, slot: usize) -> &[f32; TRIANGLE] {
        &self.r[slot]
    }

    /// `Qᵀ w` of a slot.
    pub(super) fn project(&self, slot: usize, weighted: &[f32]) -> [f32; 4] {
        let size = self.block * self.coeffs;
        let q = &self.q[slot / LANES * size..][..size];
        let mut z = [0.0; 4];
        for (z, column) in z.iter_mut().zip(q.chunks_exact(self.block)) {
            *z = column.iter().zip(weighted).map(|(q, w)| q[slot % LANES] * w).sum();
        }
        z
    }

    /// `‖Qᵀ w‖²` of every slot, for each of the blocks: what a seed can explain at most.
    pub(super) fn energies(&self, blocks: &[Vec<f32>], out: &mut [Vec<f32>]) {
        for (group, q) in self.q.chunks_exact(self.block * self.coeffs).enumerate() {
            for (block, out) in blocks.iter().zip(out.iter_mut()) {
                let mut energy = [0.0f32; LANES];
                for column in q.chunks_exact(self.block) {
                    let mut dot = [0.0f32; LANES];
                    for (w, q) in block.iter().zip(column) {
                        dot.iter_mut().zip(q).for_each(|(dot, q)| *dot += w * q);
                    }
                    energy.iter_mut().zip(dot).for_each(|(energy, dot)| *energy += dot * dot);
                }
                out[group * LANES..][..LANES].copy_from_slice(&energy);
            }
        }
    }
}

/// The columns of `diag(roots) · U(seed)`.
fn columns(p: &SeedLmParams, seed: u32, roots: &[f32]) -> Vec<Vec<f64>> {
    let half = f64::from(1u32 << (p.bits - 1));
    let mut columns = vec![Vec::with_capacity(roots.len()); usize::from(p.coeffs)];
    if let Some(mut register) = Lfsr::new(p.bits, seed) {
        for root in roots {
            for column in &mut columns {
                let u = (f64::from(register.step()) - half) / (half - 1.0);
                column.push(u * f64::from(*root));
            }
        }
    }
    columns
}

/// Modified Gram–Schmidt; a column that depends on earlier ones becomes zero, with a zero on R's diagonal.
fn orthonormalise(columns: &mut [Vec<f64>], r: &mut [f32; TRIANGLE]) {
    for j in 0..columns.len() {
        let (done, rest) = columns.split_at_mut(j);
        let column = &mut rest[0];
        let before = norm(column);
        for (i, q) in done.iter().enumerate() {
            let overlap: f64 = q.iter().zip(column.iter()).map(|(q, u)| q * u).sum();
            r[at(i, j)] = overlap as f32;
            column.iter_mut().zip(q).for_each(|(u, q)| *u -= overlap * q);
        }
        let length = norm(column);
        let independent = length > 1e-6 * before;
        r[at(j, j)] = if independent { length as f32 } else { 0.0 };
        let factor = if independent { length.recip() } else { 0.0 };
        column.iter_mut().for_each(|u| *u *= factor);
    }
}

fn norm(column: &[f64]) -> f64 {
    column.iter().map(|u| u * u).sum::<f64>().sqrt()
}
