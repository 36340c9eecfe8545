//! SIMD128, whose only instruction that multiplies and adds neighbours takes 16-bit integers.
//!
//! A 16-bit lane of a ternary panel holds the digits of two neighbouring columns in each of the four planes. They are
//! not moved into place: a digit of plane `p` counts 4ᵖ times and the input it meets 4³⁻ᵖ times, so that every
//! product counts 64 times, which a shift takes off the sum.
#![allow(unsafe_code)]

use core::arch::wasm32::*;

use forge_formats::config::limits;

use super::lanes::{add_neighbours, load_half, load_wide, store};
use crate::kernels::{Inputs, Kernels, Outputs, PANEL_ROWS, Panels, Products, portable};

pub(super) static TABLE: Kernels = Kernels {
    name: "simd128",
    // The whole build has the instruction set: these are compiled with it.
    floats: portable::TABLE.floats,
    rows: None,
    panels: Some(Products { ternary, int8 }),
};

/// Elements of an input that most models have at most.
const COMMON: usize = 2048;
/// Elements of the longest input: the memory's gate takes two of the widest vectors.
const LONGEST: usize = 2 * limits::WIDTH as usize;

/// Products of ternary panels.
fn ternary(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
    widened(inputs, |t, wide| {
        let (scaled, _) = wide.as_chunks_mut::<16>();
        for (to, q) in scaled.iter_mut().zip(inputs.pieces::<16>(t)) {
            scale_by_planes(q, to);
        }
        ternary_one(panels, inputs, out, t, scaled);
    });
}

/// Products of int8 panels.
pub(super) fn int8(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>) {
    widened(inputs, |t, wide| {
        let q = inputs.pieces::<4>(t).as_flattened();
        wide.iter_mut().zip(q).for_each(|(to, q)| *to = i16::from(*q));
        int8_one(panels, inputs, out, t, wide.as_chunks::<4>().0);
    });
}

/// Calls `product` for each input, with room for it in 16 bits.
#[inline(always)]
fn widened(inputs: &Inputs<'_>, mut product: impl FnMut(usize, &mut [i16])) {
    let mut each = |room: &mut [i16]| {
        let room = room.get_mut(..inputs.stride).unwrap_or(&mut []);
        (0..inputs.meta.len()).for_each(|t| product(t, room));
    };
    if inputs.stride <= COMMON { each(&mut [0; COMMON]) } else { each(&mut [0; LONGEST]) }
}

/// Sixteen inputs as [`ternary_one`] meets them: plane after plane, the even columns' and then the odd ones', each
/// 4³⁻ᵖ times itself.
#[inline(always)]
fn scale_by_planes(q: &[i8; 16], to: &mut [i16; 16]) {
    let (planes, _) = to.as_chunks_mut::<4>();
    for (p, (to, [a, b, c, d])) in planes.iter_mut().zip(q.as_chunks::<4>().0).enumerate() {
        *to = [a, c, b, d].map(|q| i16::from(*q) << (6 - 2 * p));
    }
}

/// One input. Half a panel at a time, so that everything stays in registers.
#[inline(never)]
fn ternary_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize, q: &[[i16; 16]]) {
    let zero = i32x4_splat(0);
    let masks = [0x0003, 0x000C, 0x0030, 0x00C0].map(|mask| i16x8_splat(mask));
    for (at, (scales, vectors)) in panels.iter().enumerate() {
        let mut totals = [zero; 4];
        for (half, totals) in totals.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            for (vector, q) in vectors.iter().zip(q) {
                let even = load_half(vector, half);
                let odd = even.map(|w| u16x8_shr(w, 8));
                for (mask, q) in masks.iter().zip(q.as_chunks::<4>().0) {
                    let [q_even, q_odd] = pairs(*q);
                    for i in 0..2 {
                        let even = i32x4_dot_i16x8(v128_and(even[i], *mask), q_even);
                        let odd = i32x4_dot_i16x8(v128_and(odd[i], *mask), q_odd);
                        totals[i] = i32x4_add(totals[i], i32x4_add(even, odd));
                    }
                }
            }
        }
        // At most 64 · 2 · 127 · LONGEST, a quarter of 2³¹.
        let totals = totals.map(|t| i32x4_shr(t, 6));
        store(out, t, at * PANEL_ROWS, scales, totals, inputs, 1);
    }
}

/// Each two of four integers, in every lane.
#[inline(always)]
fn pairs([a, b, c, d]: [i16; 4]) -> [v128; 2] {
    let pair = |low: i16, high: i16| i32::from(low.cast_unsigned()) | i32::from(high) << 16;
    [i32x4_splat(pair(a, b)), i32x4_splat(pair(c, d))]
}

/// One input: each lane sums two neighbours of a row.
#[inline(never)]
fn int8_one(panels: &Panels<'_>, inputs: &Inputs<'_>, out: &mut Outputs<'_>, t: usize, q: &[[i16; 4]]) {
    for (at, (scales, vectors)) in panels.iter().enumerate() {
        let mut sums = [i32x4_splat(0); 8];
        for (vector, q) in vectors.iter().zip(q) {
            let q = i64x2_splat(four(*q));
            for (sum, w) in sums.iter_mut().zip(load_wide(vector)) {
                *sum = i32x4_add(*sum, i32x4_dot_i16x8(w, q));
            }
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let totals = [(a, b), (c, d), (e, f), (g, h)].map(|(low, high)| add_neighbours(low, high));
        store(out, t, at * PANEL_ROWS, scales, totals, inputs, 0);
    }
}

/// Four integers in one.
#[inline(always)]
fn four(q: [i16; 4]) -> i64 {
    q.iter().rev().fold(0, |all, q| all << 16 | i64::from(q.cast_unsigned()))
}
