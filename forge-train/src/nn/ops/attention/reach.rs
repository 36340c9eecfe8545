//! Which positions a token attends to, and how the keys of a block of queries lie side by side.

use std::iter::StepBy;
use std::ops::Range;

use forge_formats::ModelConfig;
use forge_formats::config::Globals;

use crate::nn::ops::gemm::{Mat, MatMut};

/// The positions a token attends to: a window that ends at it, and global positions before that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Positions of the window, the token's own included.
    pub(crate) window: usize,
    /// Those beyond it.
    pub(crate) globals: Globals,
}

impl Reach {
    /// A model's.
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { window: config.window as usize, globals: config.globals }
    }

    /// The first position of the window that ends at `position`.
    #[inline(always)]
    pub(crate) fn window_start(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }

    /// Numbers of the global positions that a token attends to beyond its window.
    #[inline(always)]
    fn numbers(&self, position: usize) -> Range<usize> {
        let Range { start, end } = self.globals.beyond(position as u32, self.window as u32);
        start as usize..end as usize
    }

    /// The distance between global positions, 1 where there are none.
    #[inline(always)]
    fn step(&self) -> usize {
        self.globals.every.max(1) as usize
    }

    /// The global positions that a token attends to beyond its window, the oldest first.
    #[inline(always)]
    pub(crate) fn beyond(&self, position: usize) -> StepBy<Range<usize>> {
        let (numbers, step) = (self.numbers(position), self.step());
        (numbers.start * step..numbers.end * step).step_by(step)
    }
}

/// A block of query positions and the keys it sees: columns of its score matrix are global positions before the first
/// query's window, then everything from there to the last query.
pub(super) struct Block {
    pub(super) from: usize,
    pub(super) len: usize,
    /// Numbers of the global positions.
    far: Range<usize>,
    step: usize,
    /// The first position of the first query's window.
    key_from: usize,
    /// Columns.
    pub(super) keys: usize,
}

/// Columns whose keys lie at equal distances.
pub(super) struct Part {
    /// Position of the first key.
    at: usize,
    /// Positions from one key to the next.
    step: usize,
    /// Keys, which are columns.
    pub(super) keys: usize,
    /// The first column.
    pub(super) column: usize,
    /// Whether another part has come before.
    pub(super) follows: bool,
}

impl Block {
    /// The block of `len` queries from `from` on.
    pub(super) fn new(reach: &Reach, from: usize, len: usize) -> Self {
        let (far, key_from) = (reach.numbers(from), reach.window_start(from));
        let keys = far.len() + from + len - key_from;
        Self { from, len, far, step: reach.step(), key_from, keys }
    }

    /// The columns, what is near first.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        let (column, step) = (self.far.len(), self.step);
        let near = Part { at: self.key_from, step: 1, keys: self.keys - column, column, follows: false };
        let far = Part { at: self.far.start * step, step, keys: column, column: 0, follows: true };
        std::iter::once(near).chain((column > 0).then_some(far))
    }

    /// Columns of the window of row `r`.
    pub(super) fn window(&self, reach: &Reach, r: usize) -> Range<usize> {
        let (position, base) = (self.from + r, self.far.len());
        base + reach.window_start(position) - self.key_from..base + position + 1 - self.key_from
    }

    /// Sets the scores of row `r` ahead of its window to −∞, but for the global positions it attends to.
    pub(super) fn hide(&self, reach: &Reach, r: usize, scores: &mut [f32]) {
        let numbers = reach.numbers(self.from + r);
        let (far, near) = scores.split_at_mut(self.far.len());
        // Earlier queries of the block may attend to older ones.
        far[..numbers.start.min(self.far.end) - self.far.start].fill(f32::NEG_INFINITY);
        for (position, score) in (self.key_from..).zip(near) {
            if !position.is_multiple_of(self.step) || !numbers.contains(&(position / self.step)) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

impl Part {
    /// The keys' rows of `x [t, d]`.
    pub(super) fn of<'x>(&self, x: &'x [f32], d: usize) -> Mat<'x> {
        self.strided(x, d, d)
    }

    /// The keys' rows of `d` values of `x`, in which positions start `stride` apart.
    pub(super) fn strided<'x>(&self, x: &'x [f32], d: usize, stride: usize) -> Mat<'x> {
        Mat::strided(&x[self.at * stride..], self.keys, d, self.step * stride)
    }

    /// As [`Part::of`], to be written.
    pub(super) fn of_mut<'x>(&self, x: &'x mut [f32], d: usize) -> MatMut<'x> {
        self.strided_mut(x, d, d)
    }

    /// As [`Part::strided`], to be written.
    pub(super) fn strided_mut<'x>(&self, x: &'x mut [f32], d: usize, stride: usize) -> MatMut<'x> {
        MatMut::strided(&mut x[self.at * stride..], self.keys, d, self.step * stride)
    }
}
