//! SeedLM (Shafipour et al. 2024, arXiv 2410.10714): a block of C weights is a pseudo-random basis, grown
//! from a seed, times P coefficients of four bits.
//!
//! Row: `ceil(cols / C)` blocks, then zero bits to a whole byte. Block, least significant bits first: seed
//! (K bits, not 0), exponent `e` (4 bits, two's complement), coefficients `q[0..P]` (4 bits each, two's
//! complement). With `v[c][p]` the shift register's states after the seed, row by row, less `2^(K-1)`:
//! `w[c] = (Σ_p v[c][p]·q[p]) · (2^(exponent + e) / (2^(K-1) − 1))`. The sum is an exact integer of at most
//! 2^20, so a weight costs one rounding of the quotient and one of the product.

use crate::codec::SeedLmParams;
use crate::codec::bitstream::{BitReader, nibble};
use crate::error::{Error, Result};

/// The longest block (C).
pub const MAX_BLOCK: usize = 32;
/// The most coefficients (P).
pub const MAX_COEFFS: usize = 4;
/// Largest magnitude of the tensor exponent; keeps every scale a normal number.
pub const MAX_EXPONENT: i8 = 100;

/// A shift that leaves nothing of a state, for registers with fewer than four taps.
const NO_TAP: u8 = 31;

/// Taps besides bit 0 (Table 6 of the paper), for widths 8 to 16.
const TAPS: [[u8; 3]; 9] = [
    [2, 3, 4],
    [4, NO_TAP, NO_TAP],
    [3, NO_TAP, NO_TAP],
    [2, NO_TAP, NO_TAP],
    [1, 2, 8],
    [1, 2, 5],
    [1, 2, 12],
    [1, NO_TAP, NO_TAP],
    [1, 3, 12],
];

/// A maximal-length Fibonacci shift register: shifts right, the parity of the tapped bits enters at the top.
///
/// As an iterator it gives the states after the seed, for ever. Four steps are made at once (two where a tap
/// is too high for that): the states are windows onto one bit stream.
#[derive(Clone, Debug)]
pub struct Lfsr {
    window: u32,
    left: u32,
    width: u32,
    group: u32,
    taps: [u8; 3],
}

impl Lfsr {
    /// A register of `width` bits (8 to 16) holding `seed`; `None` for other widths.
    pub fn new(width: u8, seed: u32) -> Option<Self> {
        let taps = *TAPS.get(usize::from(width.checked_sub(8)?))?;
        let highest = taps.iter().filter(|&&tap| tap != NO_TAP).max().copied().unwrap_or(0);
        let group = if width - highest >= 4 { 4 } else { 2 };
        let width = u32::from(width);
        Some(Self { window: seed & ((1 << width) - 1), left: 0, width, group, taps })
    }

    /// The next state.
    #[inline]
    pub fn step(&mut self) -> u32 {
        if self.left == 0 {
            let s = self.window;
            let [a, b, c] = self.taps;
            let entering = (s ^ (s >> a) ^ (s >> b) ^ (s >> c)) & ((1 << self.group) - 1);
            self.window |= entering << self.width;
            self.left = self.group;
        }
        self.window >>= 1;
        self.left -= 1;
        self.window & ((1 << self.width) - 1)
    }
}

impl Iterator for Lfsr {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        Some(self.step())
    }
}

/// Bits of one block: K + 4 + 4P.
pub fn block_bits(p: &SeedLmParams) -> u32 {
    u32::from(p.bits) + 4 + 4 * u32::from(p.coeffs)
}

/// The unit of a block's weights: `2^(exponent + e) / (2^(K-1) − 1)`.
#[inline]
pub fn unit(p: &SeedLmParams, e: i32) -> f32 {
    let power = (127 + i32::from(p.exponent) + e).clamp(1, 254) as u32;
    f32::from_bits(power << 23) / ((1u32 << (p.bits.clamp(8, 16) - 1)) - 1) as f32
}

fn valid(p: &SeedLmParams) -> bool {
    (1..=MAX_BLOCK).contains(&usize::from(p.block))
        && (1..=MAX_COEFFS).contains(&usize::from(p.coeffs))
        && p.coeffs <= p.block
        && (8..=16).contains(&p.bits)
        && p.exponent.unsigned_abs() <= MAX_EXPONENT.unsigned_abs()
}

/// Blocks in a row. The compiler cannot see that `block` is never 0 here; `max` spares it a panic.
fn blocks(p: &SeedLmParams, cols: u32) -> u32 {
    cols.div_ceil(u32::from(p.block).max(1))
}

fn row_len(p: &SeedLmParams, cols: u32) -> Option<u64> {
    valid(p).then(|| (u64::from(blocks(p, cols)) * u64::from(block_bits(p))).div_ceil(8))
}

fn row_bytes<'a>(p: &SeedLmParams, cols: u32, payload: &'a [u8], row: u32) -> Option<&'a [u8]> {
    let len = row_len(p, cols)?;
    let start = u64::from(row).checked_mul(len)?;
    payload.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(len).ok()?)
}

/// Bytes of a `rows × cols` payload; `None` for invalid parameters or an overflow.
pub fn payload_len(p: &SeedLmParams, rows: u32, cols: u32) -> Option<u64> {
    if !valid(p) {
        return None;
    }
    row_len(p, cols)?.checked_mul(u64::from(rows))
}

/// Checks a payload once; afterwards every row decodes to finite numbers.
///
/// # Errors
/// [`Error::Codec`] for parameters out of range, a wrong length, a seed of zero (the register would stand
/// still) or padding bits that are not zero.
pub fn validate(p: &SeedLmParams, rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let bad = Error::Codec("seedlm");
    if payload_len(p, rows, cols) != Some(payload.len() as u64) {
        return Err(bad);
    }
    for row in 0..rows {
        let mut bits = BitReader::new(row_bytes(p, cols, payload, row).ok_or(bad)?);
        for _ in 0..blocks(p, cols) {
            if bits.take(u32::from(p.bits)) == 0 {
                return Err(bad);
            }
            bits.take(4 + 4 * u32::from(p.coeffs));
        }
        if !bits.rest_is_zero() {
            return Err(bad);
        }
    }
    Ok(())
}

/// Decodes row `row` into the first `cols` elements of `out`. Total: an invalid payload or row, which
/// [`validate`] and the caller exclude, gives zeros.
pub fn decode_row(p: &SeedLmParams, _rows: u32, cols: u32, payload: &[u8], row: u32, out: &mut [f32]) {
    let cols_len = usize::try_from(cols).unwrap_or(usize::MAX).min(out.len());
    let Some(out) = out.get_mut(..cols_len) else { return };
    out.fill(0.0);
    if !valid(p) {
        return;
    }
    let Some(bytes) = row_bytes(p, cols, payload, row) else { return };
    let mut bits = BitReader::new(bytes);
    let mut coeffs = [0i32; MAX_COEFFS];
    let coeffs = coeffs.split_at_mut(usize::from(p.coeffs).min(MAX_COEFFS)).0;
    let half = 1i32 << (p.bits - 1);
    for block in out.chunks_mut(usize::from(p.block).max(1)) {
        let Some(mut register) = Lfsr::new(p.bits, bits.take(u32::from(p.bits))) else { return };
        let unit = unit(p, nibble(bits.take(4)));
        coeffs.iter_mut().for_each(|q| *q = nibble(bits.take(4)));
        for w in block {
            let sum: i32 = coeffs.iter().map(|q| (register.step() as i32 - half) * q).sum();
            *w = sum as f32 * unit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step by the definition, bit by bit.
    fn next(state: u32, width: u32, taps: &[u32]) -> u32 {
        let bit = taps.iter().fold(0, |parity, tap| parity ^ (state >> tap & 1));
        (state >> 1) | bit << (width - 1)
    }

    const TABLE_6: [&[u32]; 9] = [
        &[0, 2, 3, 4],
        &[0, 4],
        &[0, 3],
        &[0, 2],
        &[0, 1, 2, 8],
        &[0, 1, 2, 5],
        &[0, 1, 2, 12],
        &[0, 1],
        &[0, 1, 3, 12],
    ];

    #[test]
    fn register_follows_table_6_and_has_full_period() {
        for (width, taps) in (8u8..=16).zip(TABLE_6) {
            let mut register = Lfsr::new(width, 1).unwrap();
            let mut state = 1;
            for step in 1u32.. {
                state = next(state, width.into(), taps);
                assert_eq!(register.step(), state, "width {width}, step {step}");
                if state == 1 {
                    assert_eq!(step, (1 << width) - 1, "period of width {width}");
                    break;
                }
            }
        }
        assert!(Lfsr::new(7, 1).is_none() && Lfsr::new(17, 1).is_none());
    }

    #[test]
    fn register_matches_the_published_vectors() {
        let states: [u32; 8] = core::array::from_fn(|i| Lfsr::new(16, 1).unwrap().nth(i).unwrap());
        assert_eq!(states, [32768, 16384, 8192, 4096, 34816, 17408, 8704, 4352]);
        // Figure 3 of the paper: width 3, seed 4. The definition above, which the wide registers follow.
        let mut state = 4;
        for expected in [2, 5, 6, 7, 3, 1, 4, 2] {
            state = next(state, 3, &[0, 1]);
            assert_eq!(state, expected);
        }
    }

    const P: SeedLmParams = SeedLmParams { block: 8, coeffs: 3, bits: 16, exponent: -2 };

    #[test]
    fn block_decodes_by_the_formula() {
        // Seed 1, e = -3, q = (2, -8, 7): 32 bits a block.
        let payload = [1, 0, 0x2D, 0x78];
        assert_eq!(validate(&P, 1, 8, &payload), Ok(()));
        let mut out = [9.0; 9];
        decode_row(&P, 1, 8, &payload, 0, &mut out);
        let states: [i32; 24] =
            core::array::from_fn(|i| Lfsr::new(16, 1).unwrap().nth(i).unwrap() as i32 - 32768);
        for (w, v) in out.iter().zip(states.chunks(3)) {
            let sum = 2 * v[0] - 8 * v[1] + 7 * v[2];
            assert_eq!(*w, sum as f32 * (0.03125 / 32767.0));
        }
        assert_eq!(out[8], 9.0, "nothing beyond the row is touched");
    }

    #[test]
    fn zero_seeds_wrong_lengths_and_dirty_padding_are_refused() {
        assert!(validate(&P, 1, 8, &[0, 0, 0x2D, 0x78]).is_err());
        assert!(validate(&P, 1, 8, &[1, 0, 0x2D]).is_err());
        assert!(validate(&P, 1, 9, &[1, 0, 0x2D, 0x78]).is_err());
        let odd = SeedLmParams { block: 8, coeffs: 3, bits: 9, exponent: 0 };
        assert_eq!(payload_len(&odd, 2, 8), Some(8));
        assert!(validate(&odd, 1, 8, &[1, 0, 0, 0]).is_ok());
        assert!(validate(&odd, 1, 8, &[1, 0, 0, 0x80]).is_err());
        for broken in [
            SeedLmParams { block: 0, ..P },
            SeedLmParams { block: 33, ..P },
            SeedLmParams { coeffs: 5, ..P },
            SeedLmParams { coeffs: 0, ..P },
            SeedLmParams { block: 2, ..P },
            SeedLmParams { bits: 7, ..P },
            SeedLmParams { bits: 17, ..P },
            SeedLmParams { exponent: -128, ..P },
        ] {
            assert_eq!(payload_len(&broken, 1, 8), None);
            decode_row(&broken, 1, 8, &[1, 0, 0x2D, 0x78], 0, &mut [0.0; 8]);
        }
    }
}
