//! Relaxed SIMD: products of signed bytes with bytes of seven bits, neighbours added.
//!
//! The instructions' results are the engine's choice where the second factor has eight bits; digits 0, 1, 2, even
//! four times over, are far below, so every engine gives the same, exact integers. There are two instructions: one
//! adds two neighbours in 16 bits, the other four in 32. Engines on processors that have a dot product do the second
//! in one step; others, x86 without VNNI, do it in five. What they make of a factor of eight bits tells which.

use core::arch::wasm32::*;

use super::lanes::{load_half, store};
use super::simd128;
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, portable};

/// Sums of two neighbours.
static PAIRS: Kernels = Kernels {
    name: "relaxed-simd",
    floats: portable::TABLE.floats,
    rows: None,
    panels: Some(Products { ternary: ternary::<Pairs>, int8: simd128::int8 }),
};

/// Sums of four neighbours.
static FOURS: Kernels = Kernels {
    name: "relaxed-simd-dot",
    floats: portable::TABLE.floats,
    rows: None,
    panels: Some(Products { ternary: ternary::<Fours>, int8: int8_fours }),
};

/// Both tables, the one that suits the processor last.
pub(super) fn available() -> impl Iterator<Item = &'static Kernels> {
    let both = if has_dot() { [&PAIRS, &FOURS] } else { [&FOURS, &PAIRS] };
    both.into_iter()
}

/// The table that suits the processor.
pub(super) fn best() -> &'static Kernels {
    if has_dot() { &FOURS } else { &PAIRS }
}

/// Whether sums of four neighbours are one step for this engine and processor, which shows where it takes a factor
/// of 255 for what its instruction does: unsigned or signed. Engines that make it of several limit the sums of two
/// to 16 bits on the way. (Node 20, behind a flag, gives yet another, wrong result.)
fn has_dot() -> bool {
    let sums = i32x4_relaxed_dot_i8x16_i7x16_add(
        core::hint::black_box(i8x16_splat(127)),
        core::hint::black_box(u8x16_splat(255)),
        core::hint::black_box(i32x4_splat(0)),
    );
    let sum = i32x4_extract_lane::<0>(sums);
    sum == 4 * 127 * 255 || sum == -4 * 127
}

/// How products are summed.
trait Sums {
    /// Vectors whose products fit in the sums, when digits of both planes count up to four times.
    const STEPS: usize;
    /// `sum + q · digits`.
    fn add(sum: v128, q: v128, digits: v128) -> v128;
    /// The sums in 32 bits.
    fn widen(sum: v128) -> v128;
}

/// In 16 bits, of two neighbours.
struct Pairs;

impl Sums for Pairs {
    // Each adds at most 2 · (2 + 2) · 4 · 127 = 4064 of either sign, and 8 · 4064 = 32,512.
    const STEPS: usize = 8;

    #[inline(always)]
    fn add(sum: v128, q: v128, digits: v128) -> v128 {
        i16x8_add(sum, i16x8_relaxed_dot_i8x16_i7x16(q, digits))
    }

    #[inline(always)]
    fn widen(sum: v128) -> v128 {
        i32x4_extadd_pairwise_i16x8(sum)
    }
}

/// In 32 bits, of four neighbours.
struct Fours;

impl Sums for Fours {
    const STEPS: usize = usize::MAX;

    #[inline(always)]
    fn add(sum: v128, q: v128, digits: v128) -> v128 {
        i32x4_relaxed_dot_i8x16_i7x16_add(q, digits, sum)
    }

    #[inline(always)]
    fn widen(sum: v128) -> v128 {
        sum
    }
}

/// Products of ternary panels.
fn ternary<S: Sums>(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
    for t in 0..inputs.meta.len() {
        ternary_one::<S>(panels, inputs, out, t);
    }
}

/// One input, half a panel at a time, so that everything stays in registers. Odd planes are left in their place, so
/// they count four times, in sums of their own.
#[inline(never)]
fn ternary_one<S: Sums>(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) {
    let zero = i32x4_splat(0);
    let (low, next) = (u8x16_splat(0x03), u8x16_splat(0x0C));
    for (at, (scales, vectors)) in panels.iter().enumerate() {
        let mut totals = [zero; 4];
        for (half, totals) in totals.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (mut even, mut odd) = ([zero; 2], [zero; 2]);
            let (mut left, mut rest) = (vectors, inputs.pieces::<16>(t));
            while !left.is_empty() && !rest.is_empty() {
                let steps = S::STEPS.min(left.len()).min(rest.len());
                let (now, later) = left.split_at_checked(steps).unwrap_or_default();
                let (q, q_later) = rest.split_at_checked(steps).unwrap_or_default();
                (left, rest) = (later, q_later);
                let (mut a, mut b) = ([zero; 2], [zero; 2]);
                for (vector, q) in now.iter().zip(q) {
                    let [q0, q1, q2, q3] = quarters(q);
                    for (i, w) in load_half(vector, half).into_iter().enumerate() {
                        let high = u16x8_shr(w, 4);
                        a[i] = S::add(a[i], q0, v128_and(w, low));
                        b[i] = S::add(b[i], q1, v128_and(w, next));
                        a[i] = S::add(a[i], q2, v128_and(high, low));
                        b[i] = S::add(b[i], q3, v128_and(high, next));
                    }
                }
                for i in 0..2 {
                    even[i] = i32x4_add(even[i], S::widen(a[i]));
                    odd[i] = i32x4_add(odd[i], S::widen(b[i]));
                }
            }
            for i in 0..2 {
                totals[i] = i32x4_add(even[i], i32x4_shr(odd[i], 2));
            }
        }
        store(out, t, at * PANEL_ROWS, scales, totals, inputs, 1);
    }
}

/// Each four of sixteen integers, in every lane.
#[inline(always)]
fn quarters(q: &[i8; 16]) -> [v128; 4] {
    let (words, _) = q.as_chunks::<4>();
    core::array::from_fn(|p| broadcast(words.get(p).copied().unwrap_or([0; 4])))
}

/// Four integers in every lane.
#[inline(always)]
fn broadcast(q: [i8; 4]) -> v128 {
    i32x4_splat(i32::from_le_bytes(q.map(i8::cast_unsigned)))
}

/// Products of int8 panels. Magnitudes have seven bits: those of the positive inputs are one factor, those of the
/// negative ones another, and the two sums are subtracted.
fn int8_fours(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
    for t in 0..inputs.meta.len() {
        int8_one(panels, inputs, out, t);
    }
}

#[inline(never)]
fn int8_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize) {
    let zero = i32x4_splat(0);
    for (at, (scales, vectors)) in panels.iter().enumerate() {
        let (mut plus, mut minus) = ([zero; 4], [zero; 4]);
        for (vector, q) in vectors.iter().zip(inputs.pieces::<4>(t)) {
            let q = broadcast(*q);
            let (positive, negative) = (i8x16_max(q, zero), i8x16_max(i8x16_neg(q), zero));
            for (i, w) in super::lanes::load(vector).into_iter().enumerate() {
                plus[i] = Fours::add(plus[i], w, positive);
                minus[i] = Fours::add(minus[i], w, negative);
            }
        }
        let totals = core::array::from_fn(|i| i32x4_sub(plus[i], minus[i]));
        store(out, t, at * PANEL_ROWS, scales, totals, inputs, 0);
    }
}
