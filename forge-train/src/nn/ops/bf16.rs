//! Matrix products of bf16 numbers with f32 sums, for processors that have them (AVX512-BF16: Zen 4, Cooper Lake,
//! Sapphire Rapids and later): operands are f32 and are rounded while they are packed.
//!
//! The blocking is Goto's (Goto & van de Geijn 2008): `B` in blocks of `DEPTH × WIDTH`, `A` in blocks of
//! `HEIGHT × DEPTH`, both packed, once each, into panels that the kernel reads straight through. Numbers lie in pairs along the
//! inner dimension, as `vdpbf16ps` multiplies them. Sums of an element run over the inner dimension in its order,
//! so they depend neither on the number of threads nor on where a block begins. Integers up to 256 are bf16 numbers:
//! products of ternary weights with int8 activations stay exact.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads};
use super::simd::vectorised;

/// Rows of a tile.
const ROWS: usize = 12;
/// Columns of a tile: two registers of 16 sums.
const COLUMNS: usize = 32;
/// Inner dimension of a block, even.
const DEPTH: usize = 512;
/// Columns of a block of `B`: half a megabyte packed.
const WIDTH: usize = 512;
/// Rows of a block of `A`: 96 KiB packed.
const HEIGHT: usize = 8 * ROWS;

/// Two numbers that are neighbours along the inner dimension, the first in the lower half.
type Pair = u32;
/// Sums of a tile.
type Tile = [[f32; COLUMNS]; ROWS];

/// Multiplies a panel of `A` `[pairs][ROWS]` with one of `B` `[pairs][COLUMNS]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The meaning, in the order of operations of the instruction: of each pair the second product is added first,
    /// every sum rounded to f32.
    #[cfg_attr(not(test), expect(dead_code, reason = "the meaning, for tests and readers"))]
    Emulated,
    /// `vdpbf16ps`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kernel {
    /// The instruction, where the processor has it.
    pub(crate) fn detected() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bf16")
        {
            return Some(Self::Avx512);
        }
        None
    }

    fn run(self, a: &[Pair], b: &[Pair], tile: &mut Tile) {
        match self {
            Self::Emulated => emulated(a, b, tile),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                assert!(a.len() / ROWS <= b.len() / COLUMNS, "panels of different depths");
                // SAFETY: this kernel is only named where the features were detected, and the panel of `b` has been
                // found to be as deep as that of `a`, whose length says how deep both are read.
                unsafe { avx512(a, b, tile) }
            }
        }
    }
}

/// `dst = alpha · a · b`, or `dst += …` when `accumulate`; operands rounded to bf16 (to nearest, ties to even).
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn multiply_bf16(
    kernel: Kernel,
    dst: MatMut<'_>,
    a: Mat<'_>,
    b: Mat<'_>,
    alpha: f32,
    accumulate: bool,
    threads: Threads,
) {
    assert!(dst.rows == a.rows && dst.cols == b.cols && a.cols == b.rows, "product of mismatched shapes");
    let MatMut { data, rows, cols, row_stride } = dst;
    if rows == 0 || cols == 0 {
        return;
    }
    if a.cols == 0 && !accumulate {
        data.chunks_mut(row_stride).for_each(|row| row[..cols].fill(0.0));
    }
    let (mut left_panels, mut right_panels) = (Vec::new(), Vec::new());
    for top in (0..a.cols).step_by(DEPTH) {
        let depth = DEPTH.min(a.cols - top);
        let pairs = depth.div_ceil(2);
        pack(a, 0..rows, top, depth, ROWS, &mut left_panels);
        for left in (0..cols).step_by(WIDTH) {
            let width = WIDTH.min(cols - left);
            pack(b.t(), left..left + width, top, depth, COLUMNS, &mut right_panels);
            let add = accumulate || top > 0;
            let band = |(index, band): (usize, &mut [f32])| {
                let (first, rows) = (index * HEIGHT, HEIGHT.min(rows - index * HEIGHT));
                let panels = &left_panels[first * pairs..(first + rows.next_multiple_of(ROWS)) * pairs];
                let out = Band { data: band, row_stride, left, width, rows };
                multiply_band(kernel, out, panels, &right_panels, alpha, add);
            };
            match threads {
                Threads::One => data.chunks_mut(HEIGHT * row_stride).enumerate().for_each(band),
                Threads::All => data.par_chunks_mut(HEIGHT * row_stride).enumerate().for_each(band),
            }
        }
    }
}

/// Rows of the result that one block of `A` gives, and the columns that one of `B` does.
struct Band<'a> {
    data: &'a mut [f32],
    row_stride: usize,
    left: usize,
    width: usize,
    rows: usize,
}

fn multiply_band(kernel: Kernel, out: Band<'_>, a: &[Pair], b: &[Pair], alpha: f32, add: bool) {
    let pairs = a.len() / out.rows.next_multiple_of(ROWS);
    for (j, b) in b.chunks_exact(pairs * COLUMNS).enumerate() {
        for (i, a) in a.chunks_exact(pairs * ROWS).enumerate() {
            let mut tile = [[0.0; COLUMNS]; ROWS];
            kernel.run(a, b, &mut tile);
            let width = COLUMNS.min(out.width - j * COLUMNS);
            for (r, sums) in tile.iter().enumerate().take(out.rows - i * ROWS) {
                let at = (i * ROWS + r) * out.row_stride + out.left + j * COLUMNS;
                for (c, sum) in out.data[at..at + width].iter_mut().zip(sums) {
                    *c = if add { *c + alpha * sum } else { alpha * sum };
                }
            }
        }
    }
}

/// Packs some rows and the columns `top..top + depth` of `m` into panels of `n` rows: of each pair of columns the
/// `n` pairs one after the other. What is missing at the edges is 0.
fn pack(m: Mat<'_>, rows: Range<usize>, top: usize, depth: usize, n: usize, packed: &mut Vec<Pair>) {
    let pairs = depth.div_ceil(2);
    packed.clear();
    packed.resize(rows.len().div_ceil(n) * pairs * n, 0);
    let mut line = vec![0; pairs];
    for (panel, first) in packed.chunks_exact_mut(pairs * n).zip(rows.clone().step_by(n)) {
        let here = n.min(rows.end - first);
        let from = &m.data[first * m.row_stride + top * m.col_stride..];
        if m.row_stride == 1 {
            pack_across(from, m.col_stride, depth, here, n, panel);
        } else {
            for r in 0..here {
                pack_along(&from[r * m.row_stride..], m.col_stride, depth, &mut line);
                panel[r..].iter_mut().step_by(n).zip(&line).for_each(|(place, pair)| *place = *pair);
            }
        }
    }
}

vectorised! {
/// Packs a panel whose `here` rows are neighbours in `data` and whose columns start `stride` apart.
fn pack_across(data: &[f32], stride: usize, depth: usize, here: usize, n: usize, panel: &mut [Pair]) {
    for (pair, places) in panel.chunks_exact_mut(n).enumerate() {
        let first = &data[2 * pair * stride..][..here];
        if 2 * pair + 1 < depth {
            let second = &data[(2 * pair + 1) * stride..][..here];
            for ((place, a), b) in places.iter_mut().zip(first).zip(second) {
                *place = round(*a) | round(*b) << 16;
            }
        } else {
            places.iter_mut().zip(first).for_each(|(place, a)| *place = round(*a));
        }
    }
}

/// Pairs of `depth` numbers that start `stride` apart.
fn pack_along(data: &[f32], stride: usize, depth: usize, line: &mut [Pair]) {
    if stride == 1 {
        let (two, last) = data[..depth].as_chunks::<2>();
        line.iter_mut().zip(two).for_each(|(pair, [a, b])| *pair = round(*a) | round(*b) << 16);
        line.iter_mut().skip(two.len()).zip(last).for_each(|(pair, a)| *pair = round(*a));
    } else {
        for (i, pair) in line.iter_mut().enumerate() {
            let second = if 2 * i + 1 < depth { round(data[(2 * i + 1) * stride]) } else { 0 };
            *pair = round(data[2 * i * stride]) | second << 16;
        }
    }
}
}

/// To bf16, in the lower half: to nearest, ties to even; what is subnormal becomes 0, as the instructions have it.
/// NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16;
    let number = if bits & 0x7F80_0000 == 0 { bits >> 16 & 0x8000 } else { nearest };
    if x.is_nan() { bits >> 16 | 0x40 } else { number }
}

/// The first and the second number of a pair.
fn numbers(pair: Pair) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000)]
}

fn emulated(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLUMNS)) {
        for (sums, a) in tile.iter_mut().zip(a) {
            let a = numbers(*a);
            for (sum, b) in sums.iter_mut().zip(b) {
                let b = numbers(*b);
                // A product of two bf16 numbers is exact in f32.
                *sum = (*sum + a[1] * b[1]) + a[0] * b[0];
            }
        }
    }
}

/// As [`emulated`], with `vdpbf16ps`.
///
/// # Safety
/// The processor must have AVX-512F and AVX512-BF16, and `b` must be as deep as `a`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn avx512(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: any 512 bits are a vector of bf16 numbers.
    let bf16 = |v: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    let (mut left, mut right) = (a.as_ptr(), b.as_ptr());
    for _ in 0..a.len() / ROWS {
        // SAFETY: both panels hold one more pair of each row and column: the loop ends with `a`, and `b` is as deep.
        let columns = unsafe {
            [bf16(_mm512_loadu_si512(right.cast())), bf16(_mm512_loadu_si512(right.add(16).cast()))]
        };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, `row` being below ROWS.
            let pair = bf16(_mm512_set1_epi32(unsafe { *left.add(row) }.cast_signed()));
            sums[0] = _mm512_dpbf16_ps(sums[0], pair, columns[0]);
            sums[1] = _mm512_dpbf16_ps(sums[1], pair, columns[1]);
        }
        // SAFETY: at most one past the end of each panel.
        unsafe {
            left = left.add(ROWS);
            right = right.add(COLUMNS);
        }
    }
    for (out, sums) in tile.iter_mut().zip(sums) {
        // SAFETY: a row of the tile has room for two registers.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, &["bf16"]);
        (0..n).map(|_| rng.normal()).collect()
    }

    fn rounded(x: f32) -> f32 {
        f32::from_bits(round(x) << 16)
    }

    #[test]
    fn rounding_is_to_nearest_with_ties_to_even() {
        for (x, want) in [(1.0, 1.0), (256.0, 256.0), (257.0, 256.0), (259.0, 260.0), (-0.0, -0.0)] {
            assert_eq!(rounded(x).to_bits(), f32::to_bits(want), "{x}");
        }
        assert_eq!((rounded(f32::MAX), rounded(f32::NEG_INFINITY)), (f32::INFINITY, f32::NEG_INFINITY));
        assert_eq!(rounded(1e-40), 0.0);
        assert!(rounded(f32::NAN).is_nan());
        for x in noise(1000, 1) {
            assert!((rounded(x) - x).abs() <= x.abs() / 256.0);
        }
    }

    /// The product in the plainest loops, blocks of DEPTH summed on their own as the blocking does.
    fn naive([m, n, k]: [usize; 3], a: &[f32], b: &[f32], alpha: f32) -> Vec<f32> {
        let one = |r: usize, c: usize| {
            let mut total = None;
            for top in (0..k).step_by(DEPTH) {
                let mut sum = 0.0f32;
                let at = |i: usize| {
                    if i < k { rounded(a[r * k + i]) * rounded(b[i * n + c]) } else { 0.0 }
                };
                for i in (top..(top + DEPTH).min(k)).step_by(2) {
                    sum = (sum + at(i + 1)) + at(i);
                }
                total = Some(total.map_or(alpha * sum, |t: f32| t + alpha * sum));
            }
            total.unwrap_or(0.0)
        };
        (0..m * n).map(|i| one(i / n, i % n)).collect()
    }

    /// Kernels to try: the emulation always, the instruction where there is one.
    fn kernels() -> impl Iterator<Item = Kernel> {
        [Kernel::Emulated].into_iter().chain(Kernel::detected())
    }

    #[test]
    fn every_edge_and_layout_gives_the_plain_product() {
        for [m, n, k] in [[1, 1, 1], [12, 32, 2], [13, 33, 3], [97, 31, 513], [5, 600, 7], [200, 40, 1030]] {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            let want = naive([m, n, k], &a, &b, 0.5);
            for (kernel, threads) in kernels().flat_map(|k| [(k, Threads::One), (k, Threads::All)]) {
                let mut c = vec![9.0; m * n];
                let right = Mat::new(&b, k, n);
                let dst = MatMut::new(&mut c, m, n);
                multiply_bf16(kernel, dst, Mat::new(&a, m, k), right, 0.5, false, threads);
                assert_eq!(c, want, "{kernel:?} {m} {n} {k}");
                let right = Mat::new(&transposed, n, k).t();
                let dst = MatMut::new(&mut c, m, n);
                multiply_bf16(kernel, dst, Mat::new(&a, m, k), right, 0.5, true, threads);
                // Twice the first product only where one block of the inner dimension makes it.
                if k <= DEPTH {
                    assert!(c.iter().zip(&want).all(|(c, w)| *c == 2.0 * w), "{kernel:?} {m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn products_of_trits_and_bytes_are_exact() {
        let [m, n, k] = [30, 40, 1031];
        let a: Vec<f32> = noise(m * k, 3).iter().map(|v| (v * 50.0).round().clamp(-127.0, 127.0)).collect();
        let b: Vec<f32> = noise(k * n, 4).iter().map(|v| v.round().clamp(-1.0, 1.0)).collect();
        for kernel in kernels() {
            let mut c = vec![0.0; m * n];
            let dst = MatMut::new(&mut c, m, n);
            multiply_bf16(kernel, dst, Mat::new(&a, m, k), Mat::new(&b, k, n), 1.0, false, Threads::One);
            for (i, c) in c.iter().enumerate() {
                let want: i64 = (0..k).map(|j| a[i / n * k + j] as i64 * b[j * n + i % n] as i64).sum();
                assert_eq!(*c as i64, want);
            }
        }
    }

    /// Not a test of correctness: prints the speed of one thread on the shapes of training. Run with
    /// `cargo test --release -p forge-train bf16_speed -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures speed; needs a processor with AVX512-BF16 and a quiet machine"]
    fn bf16_speed() {
        let kernel = Kernel::detected().expect("this processor has no AVX512-BF16");
        for [m, n, k] in
            [[1024, 1024, 192], [1024, 192, 512], [512, 2816, 512], [512, 512, 8192], [8192, 512, 512]]
        {
            let (a, b, mut c) = (noise(m * k, 1), noise(k * n, 2), vec![0.0; m * n]);
            let mut best = [f64::INFINITY; 2];
            for _ in 0..20 {
                for (bf16, best) in [false, true].into_iter().zip(&mut best) {
                    let (dst, a, b) = (MatMut::new(&mut c, m, n), Mat::new(&a, m, k), Mat::new(&b, n, k).t());
                    let start = std::time::Instant::now();
                    match bf16 {
                        true => multiply_bf16(kernel, dst, a, b, 1.0, false, Threads::One),
                        false => crate::nn::ops::gemm::multiply(dst, a, b, 1.0, false, Threads::One),
                    }
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            let [f32, bf16] = best.map(|seconds| 2.0 * (m * n * k) as f64 / seconds / 1e9);
            println!("{m} × {n} × {k}: f32 {f32:.0} GFLOP/s, bf16 {bf16:.0} GFLOP/s");
        }
    }

    #[test]
    fn an_inner_dimension_of_nothing_gives_zeros() {
        let mut c = [1.0; 6];
        let dst = MatMut::new(&mut c, 2, 3);
        let (a, b) = (Mat::new(&[], 2, 0), Mat::new(&[], 0, 3));
        multiply_bf16(Kernel::Emulated, dst, a, b, 1.0, false, Threads::One);
        assert_eq!(c, [0.0; 6]);
    }
}
