//! Matrix products of bf16 numbers with f32 sums, for processors that have them: operands are f32 and are rounded
//! while they are packed.
//!
//! The blocking is Goto's (Goto & van de Geijn 2008): blocks of `DEPTH` of the inner dimension, packed once, each,
//! into panels that the kernel reads straight through. Numbers lie in pairs along the inner dimension, as the
//! instructions multiply them. Sums of an element run over the inner dimension in its order, so they depend neither
//! on the number of threads nor on where a block begins. Integers up to 256 are bf16 numbers: products of ternary
//! weights with int8 activations stay exact.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod emulated;
mod pack;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads};
use super::simd::vectorised;
use pack::{Side, pack};

/// Most rows of a tile.
const ROWS: usize = 32;
/// Columns of a tile.
const COLUMNS: usize = 32;
/// Pairs of a row that lie together.
const SPAN: usize = 16;
/// Inner dimension of a block: panels of 32 KiB, one of which stays in the first cache.
const DEPTH: usize = 512;
/// Rows that are packed together and share what they read of the right operand: 256 KiB packed.
const HEIGHT: usize = 256;

/// Two numbers that are neighbours along the inner dimension, the first in the lower half.
type Pair = u32;
/// Sums of a tile, of which a kernel fills its first rows.
#[repr(align(64))]
struct Tile([[f32; COLUMNS]; ROWS]);

/// What panels are allocated in: whole cache lines. A row of a tile that straddles two is read at a third of the speed.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([Pair; SPAN]);

/// Multiplies a panel of `A` `[spans][rows][SPAN]` with one of `B` `[pairs][COLUMNS]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// The meaning of `vdpbf16ps`.
    #[cfg_attr(not(test), expect(dead_code, reason = "the meaning, for tests and readers"))]
    EmulatedPairs,
    /// The meaning of `tdpbf16ps`.
    #[cfg_attr(not(test), expect(dead_code, reason = "the meaning, for tests and readers"))]
    EmulatedTiles,
    /// `vdpbf16ps` of AVX512-BF16 (Zen 4, Cooper Lake and later).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// `tdpbf16ps` of AMX (Sapphire Rapids and later).
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Kernel {
    /// The fastest that the processor and the system have.
    pub(crate) fn detected() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            if amx::available() {
                return Some(Self::Amx);
            }
            if avx512::available() {
                return Some(Self::Avx512);
            }
        }
        None
    }

    /// Rows of a tile.
    fn rows(self) -> usize {
        match self {
            Self::EmulatedPairs => emulated::PAIRS_ROWS,
            Self::EmulatedTiles => ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            Self::Amx => ROWS,
        }
    }

    /// Ready to multiply on this thread.
    fn start(self) -> Running {
        match self {
            Self::EmulatedPairs => Running::Function(emulated::pairs),
            Self::EmulatedTiles => Running::Function(emulated::tiles),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Running::Function(avx512::multiply),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Running::Amx(amx::Tiles::configure()),
        }
    }
}

/// A kernel that has been set up on a thread: setting up tile registers takes as long as 200 rows of their products.
enum Running {
    Function(fn(&[Pair], &[Pair], &mut Tile)),
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Tiles),
}

impl Running {
    fn multiply(&mut self, a: &[Pair], b: &[Pair], tile: &mut Tile) {
        match self {
            Self::Function(multiply) => multiply(a, b, tile),
            #[cfg(target_arch = "x86_64")]
            Self::Amx(tiles) => tiles.multiply(a, b, tile),
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
    let height = height(kernel, rows, threads);
    let data = &mut data[..(rows - 1) * row_stride + cols];
    with_panels(&RIGHT, cols.next_multiple_of(COLUMNS) * pairs(DEPTH.min(a.cols)), |right| {
        for top in (0..a.cols).step_by(DEPTH) {
            let depth = DEPTH.min(a.cols - top);
            let right = &mut right[..cols.next_multiple_of(COLUMNS) * pairs(depth)];
            each(threads, right, COLUMNS * pairs(depth), |j, panel| {
                let first = j * COLUMNS;
                pack(Side::Right, b.t(), first..cols.min(first + COLUMNS), top, depth, panel);
            });
            each(threads, data, height * row_stride, |i, data| {
                let first = i * height;
                let band = Band { data, row_stride, cols, alpha, add: accumulate || top > 0 };
                multiply_band(kernel, band, (a, first..rows.min(first + height)), top, depth, right);
            });
        }
    });
}

thread_local! {
    /// Panels a thread packed last of the left and of the right operand, so that memory need not be cleared for each.
    static LEFT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with so many pairs, which hold anything.
fn with_panels(kept: &'static LocalKey<Cell<Vec<Line>>>, pairs: usize, f: impl FnOnce(&mut [Pair])) {
    let mut lines = kept.take();
    let wanted = pairs.div_ceil(SPAN);
    if lines.len() < wanted {
        lines.resize(wanted, Line([0; SPAN]));
    }
    f(&mut bytemuck::cast_slice_mut(&mut lines)[..pairs]);
    kept.set(lines);
}

/// Pairs of a panel of `depth` numbers, whole spans.
fn pairs(depth: usize) -> usize {
    depth.div_ceil(2 * SPAN) * SPAN
}

/// Rows of a band: at least two bands a thread where there are so many rows.
fn height(kernel: Kernel, rows: usize, threads: Threads) -> usize {
    let wanted = match threads {
        Threads::One => 1,
        Threads::All => 2 * rayon::current_num_threads(),
    };
    rows.div_ceil(wanted).clamp(1, HEIGHT).next_multiple_of(kernel.rows())
}

/// Calls `f` with number and content of each chunk.
fn each<T: Send>(threads: Threads, data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    match threads {
        Threads::One => data.chunks_mut(chunk).enumerate().for_each(|(i, chunk)| f(i, chunk)),
        Threads::All => data.par_chunks_mut(chunk).enumerate().for_each(|(i, chunk)| f(i, chunk)),
    }
}

/// Rows of the result.
struct Band<'a> {
    data: &'a mut [f32],
    row_stride: usize,
    cols: usize,
    alpha: f32,
    add: bool,
}

/// The product of some rows of the left operand, packed while they are needed, with all of the right one.
fn multiply_band(
    kernel: Kernel,
    mut out: Band<'_>,
    (a, rows): (Mat<'_>, Range<usize>),
    top: usize,
    depth: usize,
    right: &[Pair],
) {
    let (step, panel) = (kernel.rows(), kernel.rows() * pairs(depth));
    with_panels(&LEFT, rows.len().div_ceil(step) * panel, |left| {
        for (first, panel) in rows.clone().step_by(step).zip(left.chunks_exact_mut(panel)) {
            pack(Side::Left(step), a, first..rows.end.min(first + step), top, depth, panel);
        }
        let mut tile = Tile([[0.0; COLUMNS]; ROWS]);
        let mut running = kernel.start();
        for (j, right) in right.chunks_exact(COLUMNS * pairs(depth)).enumerate() {
            for (i, left) in left.chunks_exact(panel).enumerate() {
                running.multiply(left, right, &mut tile);
                let here = step.min(rows.len() - i * step);
                write(&tile.0[..here], i * step, j * COLUMNS, &mut out);
            }
        }
    });
}

vectorised! {
/// Writes a tile, or adds it, to the result from row `top` and column `left` on.
fn write(tile: &[[f32; COLUMNS]], top: usize, left: usize, out: &mut Band<'_>) {
    let (alpha, add) = (out.alpha, out.add);
    let width = COLUMNS.min(out.cols - left);
    for (r, sums) in tile.iter().enumerate() {
        let row = &mut out.data[(top + r) * out.row_stride + left..][..width];
        match row.as_chunks_mut::<COLUMNS>() {
            ([whole], []) if add => whole.iter_mut().zip(sums).for_each(|(c, sum)| *c += alpha * sum),
            ([whole], []) => whole.iter_mut().zip(sums).for_each(|(c, sum)| *c = alpha * sum),
            (_, row) if add => row.iter_mut().zip(sums).for_each(|(c, sum)| *c += alpha * sum),
            (_, row) => row.iter_mut().zip(sums).for_each(|(c, sum)| *c = alpha * sum),
        }
    }
}
}
