//! Hyper-Compression (Fan et al. 2024, arXiv 2409.00592) with K = 2, as its authors released it: a pair of
//! weights is a node of a winding over a square.
//!
//! Payload: centroid (two f32), side `l` of the square, distance `far` of the farthest pair (f32 each,
//! little-endian); then the rows. Row: one integer θ for each of `ceil(cols / 2)` pairs, in the fewest bits
//! that hold the largest, least significant bits first, then zero bits to a whole byte.
//! `θ = ring·(U + 1) + node`. Node 0 is the centroid; node `n + 1` is the winding's point
//! `(n·l/r² − l/2, (n mod r)·l/r − l/2)` with `r = ceil(√U)`: the direction `tan α = r`, stepped so that
//! `r` steps wrap once. Ring `m` stretches a point by `1 + m·(far − l/2) / (M·l/2)`.

use crate::codec::HyperParams;
use crate::codec::bitstream::BitReader;
use crate::error::{Error, Result};

/// The most rings (M).
pub const MAX_RINGS: u8 = 16;
/// Smallest side of the square.
pub const MIN_SIDE: f32 = 1.0 / (1u64 << 60) as f32;
/// Largest magnitude of a number in the header.
pub const MAX_MAGNITUDE: f32 = (1u64 << 60) as f32;
/// Bytes before the rows.
pub const HEADER: usize = 16;

/// What a payload's header says; every node's position follows from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Winding {
    /// Mean of all pairs.
    pub centroid: [f32; 2],
    /// Side of the square.
    pub side: f32,
    /// Distance of the farthest pair from the centroid, at least `side / 2`.
    pub far: f32,
}

/// A winding's derived numbers, in the order of operations that fixes its nodes' positions.
#[derive(Clone, Copy, Debug)]
pub struct Nodes {
    centroid: [f32; 2],
    half: f32,
    step: [f32; 2],
    turn: u32,
    count: u32,
    stretch: f32,
}

impl Winding {
    /// Reads a header; `None` if it is short or out of range.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let header = payload.first_chunk::<HEADER>()?;
        let (words, _) = header.as_chunks::<4>();
        let mut numbers = [0.0; 4];
        for (number, word) in numbers.iter_mut().zip(words) {
            *number = f32::from_le_bytes(*word);
        }
        let [x, y, side, far] = numbers;
        let winding = Self { centroid: [x, y], side, far };
        winding.valid().then_some(winding)
    }

    /// Whether every number is in range.
    pub fn valid(&self) -> bool {
        let [x, y] = self.centroid;
        x.abs() <= MAX_MAGNITUDE
            && y.abs() <= MAX_MAGNITUDE
            && (MIN_SIDE..=MAX_MAGNITUDE).contains(&self.side)
            && (self.side * 0.5..=MAX_MAGNITUDE).contains(&self.far)
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let (words, _) = bytes.as_chunks_mut::<4>();
        let [x, y] = self.centroid;
        for (word, number) in words.iter_mut().zip([x, y, self.side, self.far]) {
            *word = number.to_le_bytes();
        }
        bytes
    }

    /// The nodes under parameters `p`.
    pub fn nodes(&self, p: &HyperParams) -> Nodes {
        let turn = turn(p);
        let half = self.side * 0.5;
        let stretch = if p.rings == 0 { 0.0 } else { (self.far - half) / (f32::from(p.rings) * half) };
        let step = [self.side / (turn * turn) as f32, self.side / turn as f32];
        Nodes { centroid: self.centroid, half, step, turn, count: u32::from(p.nodes) + 1, stretch }
    }
}

impl Nodes {
    /// Offset from the centroid of `node` in the square, before any stretching; (0, 0) for node 0.
    #[inline]
    pub fn offset(&self, node: u32) -> [f32; 2] {
        let Some(n) = node.checked_sub(1) else { return [0.0; 2] };
        let [x, y] = self.step;
        [n as f32 * x - self.half, n.checked_rem(self.turn).unwrap_or(0) as f32 * y - self.half]
    }

    /// How far ring `ring` is stretched; 1 for ring 0.
    #[inline]
    pub fn factor(&self, ring: u32) -> f32 {
        1.0 + ring as f32 * self.stretch
    }

    /// The pair of weights coded by `theta`.
    #[inline]
    pub fn decode(&self, theta: u32) -> [f32; 2] {
        let (ring, node) = (theta / self.count.max(1), theta % self.count.max(1));
        let ([x, y], factor) = (self.offset(node), self.factor(ring));
        let [cx, cy] = self.centroid;
        [cx + x * factor, cy + y * factor]
    }
}

/// `r = ceil(√U)`, the winding's steps to one turn.
pub fn turn(p: &HyperParams) -> u32 {
    let nodes = u32::from(p.nodes);
    let root = nodes.isqrt();
    root + u32::from(root * root < nodes)
}

/// Bits of a θ: as many as the largest possible one needs.
pub fn theta_bits(p: &HyperParams) -> u32 {
    largest(p).checked_ilog2().map_or(0, |log| log + 1)
}

fn largest(p: &HyperParams) -> u32 {
    (u32::from(p.rings) + 1) * (u32::from(p.nodes) + 1) - 1
}

fn valid(p: &HyperParams) -> bool {
    p.nodes > 0 && p.rings <= MAX_RINGS
}

fn row_len(p: &HyperParams, cols: u32) -> u64 {
    (u64::from(cols.div_ceil(2)) * u64::from(theta_bits(p))).div_ceil(8)
}

fn row_bytes<'a>(p: &HyperParams, cols: u32, payload: &'a [u8], row: u32) -> Option<&'a [u8]> {
    let len = row_len(p, cols);
    let start = u64::from(row).checked_mul(len)?.checked_add(HEADER as u64)?;
    payload.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(len).ok()?)
}

/// Bytes of a `rows × cols` payload; `None` for invalid parameters or an overflow.
pub fn payload_len(p: &HyperParams, rows: u32, cols: u32) -> Option<u64> {
    if !valid(p) {
        return None;
    }
    row_len(p, cols).checked_mul(u64::from(rows))?.checked_add(HEADER as u64)
}

/// Checks a payload once; afterwards every row decodes to finite numbers.
///
/// # Errors
/// [`Error::Codec`] for parameters or header numbers out of range, a wrong length, a θ beyond the last node
/// of the last ring, or padding bits that are not zero.
pub fn validate(p: &HyperParams, rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let bad = Error::Codec("hyper");
    if payload_len(p, rows, cols) != Some(payload.len() as u64) || Winding::read(payload).is_none() {
        return Err(bad);
    }
    let (width, largest) = (theta_bits(p), largest(p));
    for row in 0..rows {
        let mut bits = BitReader::new(row_bytes(p, cols, payload, row).ok_or(bad)?);
        for _ in 0..cols.div_ceil(2) {
            if bits.take(width) > largest {
                return Err(bad);
            }
        }
        if !bits.rest_is_zero() {
            return Err(bad);
        }
    }
    Ok(())
}

/// Decodes row `row` into the first `cols` elements of `out`. Total: an invalid payload or row, which
/// [`validate`] and the caller exclude, gives zeros.
pub fn decode_row(p: &HyperParams, _rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [f32]) {
    let cols_len = usize::try_from(cols).unwrap_or(usize::MAX).min(out.len());
    let Some(out) = out.get_mut(..cols_len) else { return };
    out.fill(0.0);
    if !valid(p) {
        return;
    }
    let (Some(winding), Some(bytes)) = (Winding::read(payload), row_bytes(p, cols, payload, row)) else {
        return;
    };
    let (nodes, width) = (winding.nodes(p), theta_bits(p));
    let mut bits = BitReader::new(bytes);
    for pair in out.chunks_mut(2) {
        for (w, value) in pair.iter_mut().zip(nodes.decode(bits.take(width))) {
            *w = value;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const P: HyperParams = HyperParams { nodes: 5, rings: 2 };

    /// One row of three weights: nodes 0..=5 in three rings make θ at most 17, five bits.
    fn payload(thetas: [u32; 2]) -> Vec<u8> {
        let winding = Winding { centroid: [0.25, -0.5], side: 4.5, far: 6.75 };
        let mut bytes = winding.to_bytes().to_vec();
        bytes.extend(((thetas[0] | thetas[1] << 5) as u16).to_le_bytes());
        bytes
    }

    #[test]
    fn pairs_decode_by_the_formula() {
        // r = 3, step (0.5, 1.5), half 2.25, stretch (6.75 - 2.25) / 4.5 = 1.
        let mut out = [0.0; 3];
        decode_row(&P, 1, 3, &payload([5, 0]), 0, &mut out);
        assert_eq!(out, [0.25 + 4.0 * 0.5 - 2.25, -0.5 + 1.5 - 2.25, 0.25]);
        decode_row(&P, 1, 3, &payload([2 * 6 + 2, 6]), 0, &mut out);
        assert_eq!(out, [0.25 + (0.5 - 2.25) * 3.0, -0.5 + (1.5 - 2.25) * 3.0, 0.25]);
    }

    #[test]
    fn winding_covers_the_square_as_a_sheared_grid() {
        let p = HyperParams { nodes: 225, rings: 0 };
        assert_eq!((turn(&p), theta_bits(&p)), (15, 8));
        assert_eq!(turn(&HyperParams { nodes: 226, rings: 0 }), 16);
        assert_eq!(turn(&HyperParams { nodes: u16::MAX, rings: 16 }), 256);
        let nodes = Winding { centroid: [0.0; 2], side: 1.0, far: 0.5 }.nodes(&p);
        for n in 0..225u32 {
            let [x, y] = nodes.offset(n + 1);
            assert!((f64::from(x) - (f64::from(n) / 225.0 - 0.5)).abs() < 1e-7);
            assert!((f64::from(y) - (f64::from(n % 15) / 15.0 - 0.5)).abs() < 1e-7);
        }
    }

    #[test]
    fn bad_headers_codes_lengths_and_parameters_are_refused() {
        let good = payload([17, 0]);
        assert_eq!(validate(&P, 1, 3, &good), Ok(()));
        assert!(validate(&P, 1, 3, &payload([18, 0])).is_err());
        assert!(validate(&P, 1, 3, &good[1..]).is_err());
        let mut dirty = good.clone();
        dirty[17] |= 0x80;
        assert!(validate(&P, 1, 3, &dirty).is_err());
        for (at, number) in
            [(0, f32::NAN), (4, f32::INFINITY), (8, 0.0), (8, -1.0), (8, 1e30), (12, 1.0), (12, f32::NAN)]
        {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            assert!(validate(&P, 1, 3, &bytes).is_err(), "{number} at {at}");
        }
        for broken in [HyperParams { nodes: 0, rings: 0 }, HyperParams { nodes: 5, rings: 17 }] {
            assert_eq!(payload_len(&broken, 1, 3), None);
            decode_row(&broken, 1, 3, &good, 0, &mut [0.0; 3]);
        }
    }
}
