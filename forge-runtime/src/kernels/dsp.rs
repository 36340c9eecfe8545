//! Armv7E-M (Cortex-M4, M7): two 16-bit products an instruction, on rows as they lie in flash.
//!
//! `smlad` adds two products of halfwords. A mask leaves two digits, or two sign extensions two bytes, of a word of
//! weights as halfwords; inputs are laid out in the order these come in. Rows are taken [`ROWS`] at a time, so that an
//! input's word is loaded once for all of them.
//!
//! `Ternary5x8` would need four instructions for two digits. Instead, four bytes' columns at a time, the sums of five
//! inputs are put in a table for each of the 243 bytes there are; each byte of a row is then one load and one addition.
//! Filling the tables pays from [`TABLE_ROWS`] rows on.
#![allow(unsafe_code)]

use core::arch::asm;

use forge_formats::Matrix;
use forge_formats::codec::Codec;

use super::generic::to_int8;
use super::{Kernels, portable};
use crate::math::{max_abs, widen_f16};

pub(super) static TABLE: Kernels =
    Kernels { name: "dsp", floats: portable::FLOATS, panels: None, rows: Some(rows) };

/// Rows that share the loads of an input.
const ROWS: usize = 2;
/// Elements of an input in a group: a word of trits, or four of bytes.
const GROUP: usize = 16;
/// Places of a group's elements: word `w` holds elements `ORDER[w]`, low half first. Digits `p` of bytes 0 and 2 of a
/// word, then of bytes 1 and 3.
const TRITS: [[usize; 2]; 8] = [[0, 8], [4, 12], [1, 9], [5, 13], [2, 10], [6, 14], [3, 11], [7, 15]];
/// Bytes 0 and 2 of each word, then 1 and 3.
const BYTES: [[usize; 2]; 8] = [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]];
/// Rows from which on tables of sums cost less than digits.
const TABLE_ROWS: usize = 48;
/// Bytes of a row, and so tables, in work at a time: 2 kB of the stack.
const TABLES: usize = 4;

/// `y = W x` of an integer matrix; `buffer` is that of the portable kernels.
fn rows(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
    match w.codec() {
        Codec::Int8Row => grouped(w, x, buffer, y, &BYTES),
        Codec::Ternary2b => grouped(w, x, buffer, y, &TRITS),
        Codec::Ternary5x8 if w.rows() >= TABLE_ROWS => by_tables(w, x, buffer, y),
        _ => portable::rows(w, x, buffer, y),
    }
}

/// Writes an input as halfwords, in groups of the given order, and returns its groups, the real value of a unit, and
/// the sum.
fn arrange<'b>(
    x: &[f32],
    buffer: &'b mut [u32],
    order: &[[usize; 2]; 8],
) -> Option<(&'b [[u32; 8]], f32, i32)> {
    let amax = max_abs(x);
    if amax <= 1e-30 {
        return None;
    }
    let scale = 127.0 / amax;
    let groups = buffer.as_chunks_mut::<8>().0.get_mut(..x.len().div_ceil(GROUP))?;
    let (whole, tail) = x.as_chunks::<GROUP>();
    let mut last = [0.0; GROUP];
    last.iter_mut().zip(tail).for_each(|(l, t)| *l = *t);
    let mut sum = 0;
    for (group, x) in groups.iter_mut().zip(whole.iter().chain(core::iter::once(&last))) {
        let mut integers = [0i32; GROUP];
        for (q, x) in integers.iter_mut().zip(x) {
            *q = to_int8(x * scale);
            sum += *q;
        }
        for (word, [low, high]) in group.iter_mut().zip(order) {
            let half = |at: &usize| integers.get(*at).copied().unwrap_or(0).cast_unsigned();
            *word = half(low) & 0xFFFF | half(high) << 16;
        }
    }
    Some((groups, amax / 127.0, sum))
}

/// Products from groups of sixteen elements.
fn grouped(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32], order: &[[usize; 2]; 8]) {
    let Some((q, inverse, sum)) = arrange(x, buffer, order) else {
        return y.fill(0.0);
    };
    let trits = w.codec() == Codec::Ternary2b;
    let (offset, dot): (i32, fn([&[u8]; ROWS], &[[u32; 8]]) -> [i32; ROWS]) =
        if trits { (sum, dot_trits) } else { (0, dot_bytes) };
    let stride = w.row_stride();
    let mut rest = w.rows_on();
    let mut next = || {
        let (row, after) = rest.split_at_checked(stride).unwrap_or((&[], &[]));
        rest = after;
        row
    };
    for (y, scales) in y.chunks_mut(ROWS).zip(w.scales().chunks(ROWS)) {
        let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
        // A row that is not there is as long as the others, so that the loop over them has one end.
        rows.iter_mut().zip(scales).for_each(|(row, _)| *row = next());
        let [first, ..] = rows;
        rows.iter_mut().skip(scales.len()).for_each(|row| *row = first);
        for ((y, acc), scale) in y.iter_mut().zip(dot(rows, q)).zip(scales) {
            *y = (acc - offset) as f32 * (inverse * widen_f16(*scale));
        }
    }
}

/// Rows of trits times an input in the order [`TRITS`].
#[inline(never)]
fn dot_trits(rows: [&[u8]; ROWS], q: &[[u32; 8]]) -> [i32; ROWS] {
    let (words, tails) = split::<4>(rows);
    let mut sums = [0; ROWS];
    let mask = digit_mask();
    let mut add = |words: [u32; ROWS], q: &[u32; 8]| {
        for (sum, w) in sums.iter_mut().zip(words) {
            *sum = add_digits::<0>(*sum, w, mask, q[0]);
            *sum = add_digits::<8>(*sum, w, mask, q[1]);
            *sum = add_digits::<2>(*sum, w, mask, q[2]);
            *sum = add_digits::<10>(*sum, w, mask, q[3]);
            *sum = add_digits::<4>(*sum, w, mask, q[4]);
            *sum = add_digits::<12>(*sum, w, mask, q[5]);
            *sum = add_digits::<6>(*sum, w, mask, q[6]);
            *sum = add_digits::<14>(*sum, w, mask, q[7]);
        }
    };
    let [a, b] = words;
    for ((a, b), q) in a.iter().zip(b).zip(q) {
        add([u32::from_le_bytes(*a), u32::from_le_bytes(*b)], q);
    }
    // What lies beyond the end meets inputs of 0.
    if let (Some(q), true) = (q.get(a.len()), tails.iter().any(|t| !t.is_empty())) {
        add(tails.map(padded), q);
    }
    sums
}

/// Rows of bytes times an input in the order [`BYTES`].
#[inline(never)]
fn dot_bytes(rows: [&[u8]; ROWS], q: &[[u32; 8]]) -> [i32; ROWS] {
    let (words, tails) = split::<4>(rows);
    let mut sums = [0; ROWS];
    let mut add = |words: [u32; ROWS], q: &[u32; 2]| {
        for (sum, w) in sums.iter_mut().zip(words) {
            *sum = add_bytes(*sum, w, q);
        }
    };
    let [a, b] = words;
    let q = q.as_flattened().as_chunks::<2>().0;
    for ((a, b), q) in a.iter().zip(b).zip(q) {
        add([u32::from_le_bytes(*a), u32::from_le_bytes(*b)], q);
    }
    if let (Some(q), true) = (q.get(a.len()), tails.iter().any(|t| !t.is_empty())) {
        add(tails.map(padded), q);
    }
    sums
}

/// Rows as pieces of `N` bytes, and what is left of each.
#[inline(always)]
fn split<const N: usize>(rows: [&[u8]; ROWS]) -> ([&[[u8; N]]; ROWS], [&[u8]; ROWS]) {
    (rows.map(|row| row.as_chunks().0), rows.map(|row| row.as_chunks::<N>().1))
}

/// The last bytes of a row as a word.
#[inline(always)]
fn padded(tail: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(tail).for_each(|(b, t)| *b = *t);
    u32::from_le_bytes(bytes)
}

/// The lowest digits of bytes 0 and 2, in a register, where a mask is shifted against for nothing.
#[inline(always)]
fn digit_mask() -> u32 {
    let mask;
    // SAFETY: an instruction on a register.
    unsafe { asm!("mov {}, #0x00030003", out(reg) mask, options(pure, nomem, nostack, preserves_flags)) }
    mask
}

/// `sum` and the products of the two digits of `w` at bit `SHIFT` and sixteen above it.
#[inline(always)]
fn add_digits<const SHIFT: u32>(mut sum: i32, w: u32, mask: u32, q: u32) -> i32 {
    // SAFETY: instructions on registers, which every Armv7E-M has.
    unsafe {
        if SHIFT == 0 {
            asm!(
                "and {d}, {mask}, {w}",
                "smlad {sum}, {d}, {q}, {sum}",
                d = out(reg) _, mask = in(reg) mask, w = in(reg) w, q = in(reg) q, sum = inout(reg) sum,
                options(pure, nomem, nostack),
            );
        } else {
            asm!(
                "and {d}, {mask}, {w}, lsr #{shift}",
                "smlad {sum}, {d}, {q}, {sum}",
                d = out(reg) _, mask = in(reg) mask, w = in(reg) w, q = in(reg) q, sum = inout(reg) sum,
                shift = const SHIFT,
                options(pure, nomem, nostack),
            );
        }
    }
    sum
}

/// `sum` and the products of the four bytes of `w`.
#[inline(always)]
fn add_bytes(mut sum: i32, w: u32, [q02, q13]: &[u32; 2]) -> i32 {
    // SAFETY: instructions on registers, which every Armv7E-M has. The first sum is written while inputs are still read.
    unsafe {
        asm!(
            "sxtb16 {d}, {w}",
            "smlad {sum}, {d}, {q02}, {sum}",
            "sxtb16 {d}, {w}, ror #8",
            "smlad {sum}, {d}, {q13}, {sum}",
            d = out(reg) _, w = in(reg) w, q02 = in(reg) *q02, q13 = in(reg) *q13, sum = inout(reg) sum,
            options(pure, nomem, nostack),
        );
    }
    sum
}

/// The byte of each number in base 3: 256/243 of it, rounded up.
static PLACES: [[u8; 3]; 81] = {
    let mut places = [[0; 3]; 81];
    let mut v = 0;
    while v < 243 {
        places[v / 3][v % 3] = (v * 256).div_ceil(243) as u8;
        v += 1;
    }
    places
};

/// Products of rows of `Ternary5x8` by tables of sums.
fn by_tables(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
    let q: &mut [i16] = bytemuck::must_cast_slice_mut(buffer);
    let amax = max_abs(x);
    let Some(q) = q.get_mut(..x.len().next_multiple_of(5)).filter(|_| amax > 1e-30) else {
        return y.fill(0.0);
    };
    let scale = 127.0 / amax;
    q.fill(0);
    q.iter_mut().zip(x).for_each(|(q, x)| *q = to_int8(x * scale) as i16);
    let offset: i32 = q.iter().map(|q| i32::from(*q)).sum();
    y.fill(0.0);
    // Sums are kept where the results will be.
    let sums: &mut [i32] = bytemuck::must_cast_slice_mut(y);
    let stride = w.row_stride();
    let mut tables = [[0i16; 256]; TABLES];
    for (tile, q) in q.as_chunks::<5>().0.chunks(TABLES).enumerate() {
        for (table, q) in tables.iter_mut().zip(q) {
            fill(table, q);
        }
        let mut rest = w.rows_on().get(tile * TABLES..).unwrap_or(&[]);
        if q.len() == TABLES {
            for sum in sums.iter_mut() {
                *sum += look_up(&tables, rest.first_chunk().copied().unwrap_or([0; TABLES]));
                rest = rest.get(stride..).unwrap_or(&[]);
            }
        } else {
            for sum in sums.iter_mut() {
                let pairs = tables.iter().zip(rest).take(q.len());
                *sum += pairs.map(|(table, byte)| at(table, *byte)).sum::<i32>();
                rest = rest.get(stride..).unwrap_or(&[]);
            }
        }
    }
    for (y, scale) in y.iter_mut().zip(w.scales()) {
        let sum = y.to_bits().cast_signed() - offset;
        *y = sum as f32 * (amax / 127.0 * widen_f16(*scale));
    }
}

/// The sums of five inputs for every byte there is; at most 5 · 2 · 127.
#[inline(never)]
fn fill(table: &mut [i16; 256], q: &[i16; 5]) {
    let mut places = PLACES.iter();
    let [q0, q1, q2, q3, q4] = q;
    for a in [0, *q0, 2 * q0] {
        for b in [a, a + q1, a + 2 * q1] {
            for c in [b, b + q2, b + 2 * q2] {
                for d in [c, c + q3, c + 2 * q3] {
                    let Some([x, y, z]) = places.next() else { return };
                    table[usize::from(*x)] = d;
                    table[usize::from(*y)] = d + q4;
                    table[usize::from(*z)] = d + 2 * q4;
                }
            }
        }
    }
}

#[inline(always)]
fn look_up(tables: &[[i16; 256]; TABLES], bytes: [u8; TABLES]) -> i32 {
    let [a, b, c, d] = tables;
    let [i, j, k, l] = bytes;
    at(a, i) + at(b, j) + at(c, k) + at(d, l)
}

#[inline(always)]
fn at(table: &[i16; 256], byte: u8) -> i32 {
    i32::from(table[usize::from(byte)])
}
