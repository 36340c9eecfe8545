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
use forge_formats::codec::{Codec, linked};

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
        Codec::Int8Row | Codec::Ternary2b => grouped(w, x, buffer, y),
        Codec::Ternary5x8 if linked::TERNARY_5X8 && w.rows() >= TABLE_ROWS => by_tables(w, x, buffer, y),
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
fn grouped(w: &Matrix<'_>, x: &[f32], buffer: &mut [u32], y: &mut [f32]) {
    let trits = w.codec() == Codec::Ternary2b;
    let Some((q, inverse, sum)) = arrange(x, buffer, if trits { &TRITS } else { &BYTES }) else {
        return y.fill(0.0);
    };
    let (stride, offset) = (w.row_stride(), if trits { sum } else { 0 });
    let mut rest = w.rows_on();
    for (y, scales) in y.chunks_mut(ROWS).zip(w.scales().chunks(ROWS)) {
        let sums =
            if trits { dot::<4>(rest, stride, q, add_trits) } else { dot::<16>(rest, stride, q, add_bytes) };
        for ((y, sum), scale) in y.iter_mut().zip(sums).zip(scales) {
            *y = (sum - offset) as f32 * (inverse * widen_f16(*scale));
        }
        rest = rest.get(ROWS * stride..).unwrap_or(&[]);
    }
}

/// Two rows of `stride` bytes at the front of `bytes` times an input, `N` bytes of each row a group; of a row that is
/// not there, anything. `add` adds the products of a group.
#[inline(never)]
fn dot<const N: usize>(
    bytes: &[u8],
    stride: usize,
    q: &[[u32; 8]],
    add: impl Fn(&mut [i32; ROWS], &[u8; N], &[u8; N], &[u32; 8]),
) -> [i32; ROWS] {
    let mut sums = [0; ROWS];
    // What lies beyond the end of a row meets inputs of 0, so rows are read in whole groups.
    let groups = |from: usize| bytes.get(from..from + q.len() * N).map(|row| row.as_chunks::<N>().0);
    if let (Some(a), Some(b)) = (groups(0), groups(stride)) {
        for ((a, b), q) in a.iter().zip(b).zip(q) {
            add(&mut sums, a, b, q);
        }
        return sums;
    }
    // The last rows of the payload.
    let row = |r: usize| bytes.get(r * stride..).and_then(|row| row.get(..stride)).unwrap_or(&[]);
    let pieces = |r| row(r).chunks(N).map(padded::<N>);
    for ((i, a), q) in pieces(0).enumerate().zip(q) {
        add(&mut sums, &a, &pieces(1).nth(i).unwrap_or([0; N]), q);
    }
    sums
}

/// The last bytes of a row, filled up with zeros.
#[inline(always)]
fn padded<const N: usize>(tail: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(tail).for_each(|(b, t)| *b = *t);
    bytes
}

/// Adds the products of a word of trits of two rows.
#[inline(always)]
fn add_trits(sums: &mut [i32; ROWS], a: &[u8; 4], b: &[u8; 4], q: &[u32; 8]) {
    let (a, b, mask) = (u32::from_le_bytes(*a), u32::from_le_bytes(*b), digit_mask());
    add_digits::<0>(sums, a, b, mask, q[0]);
    add_digits::<8>(sums, a, b, mask, q[1]);
    add_digits::<2>(sums, a, b, mask, q[2]);
    add_digits::<10>(sums, a, b, mask, q[3]);
    add_digits::<4>(sums, a, b, mask, q[4]);
    add_digits::<12>(sums, a, b, mask, q[5]);
    add_digits::<6>(sums, a, b, mask, q[6]);
    add_digits::<14>(sums, a, b, mask, q[7]);
}

/// The lowest digits of bytes 0 and 2, in a register, where a mask is shifted against for nothing.
#[inline(always)]
fn digit_mask() -> u32 {
    let mask;
    // SAFETY: an instruction on a register.
    unsafe { asm!("mov {}, #0x00030003", out(reg) mask, options(pure, nomem, nostack, preserves_flags)) }
    mask
}

/// Adds to two sums the products of the digits of `a` and `b` at bit `SHIFT` and sixteen above it.
#[inline(always)]
fn add_digits<const SHIFT: u32>([x, y]: &mut [i32; ROWS], a: u32, b: u32, mask: u32, q: u32) {
    // SAFETY: instructions on registers, which every Armv7E-M has.
    unsafe {
        asm!(
            "and {d}, {mask}, {a}, lsr #{shift}",
            "smlad {x}, {d}, {q}, {x}",
            "and {d}, {mask}, {b}, lsr #{shift}",
            "smlad {y}, {d}, {q}, {y}",
            d = out(reg) _, mask = in(reg) mask, a = in(reg) a, b = in(reg) b, q = in(reg) q,
            x = inout(reg) *x, y = inout(reg) *y, shift = const SHIFT,
            options(pure, nomem, nostack),
        );
    }
}

/// Adds the products of sixteen bytes of two rows.
#[inline(always)]
fn add_bytes(sums: &mut [i32; ROWS], a: &[u8; 16], b: &[u8; 16], q: &[u32; 8]) {
    let pairs = q.as_chunks::<2>().0.iter();
    for ((a, b), q) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0).zip(pairs) {
        add_word(sums, u32::from_le_bytes(*a), u32::from_le_bytes(*b), *q);
    }
}

/// Adds to two sums the products of the four bytes of `a` and `b`.
#[inline(always)]
fn add_word([x, y]: &mut [i32; ROWS], a: u32, b: u32, [even, odd]: [u32; 2]) {
    // SAFETY: instructions on registers, which every Armv7E-M has.
    unsafe {
        asm!(
            "sxtb16 {d}, {a}",
            "smlad {x}, {d}, {even}, {x}",
            "sxtb16 {d}, {a}, ror #8",
            "smlad {x}, {d}, {odd}, {x}",
            "sxtb16 {d}, {b}",
            "smlad {y}, {d}, {even}, {y}",
            "sxtb16 {d}, {b}, ror #8",
            "smlad {y}, {d}, {odd}, {y}",
            d = out(reg) _, a = in(reg) a, b = in(reg) b, even = in(reg) even, odd = in(reg) odd,
            x = inout(reg) *x, y = inout(reg) *y,
            options(pure, nomem, nostack),
        );
    }
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
        // What lies beyond the end of a row adds nothing.
        tables.iter_mut().skip(q.len()).for_each(|table| table.fill(0));
        for sum in sums.iter_mut() {
            let bytes = rest.first_chunk().copied();
            *sum += look_up(&tables, bytes.unwrap_or_else(|| padded(rest)));
            rest = rest.get(stride..).unwrap_or(&[]);
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
