//! `Ternary2b` and `Ternary5x8`: packed trits, row after row, then one f16 scale a row.
//!
//! A row takes a whole number of bytes; unused places of its last byte hold the trit 0. A weight is
//! `trit * scale`. [`Packing::FiveInEight`] writes the base-3 number `v = Σ (trit[n] + 1) · 3^(4−n)` as the
//! fraction `v / 243` of 256, rounded up, so that a multiplication by 3 pushes the next digit out at the top.

use crate::codec::{scales_valid, split_scales};
use crate::error::{Error, Result};

/// How trits share a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Four trits of two bits, the first in the least significant bits, code `trit + 1`.
    TwoBit,
    /// Five trits in base 3.
    FiveInEight,
}

impl Packing {
    /// Trits in a byte.
    pub fn trits(self) -> u32 {
        match self {
            Packing::TwoBit => 4,
            Packing::FiveInEight => 5,
        }
    }

    /// The codec's name.
    pub fn name(self) -> &'static str {
        match self {
            Packing::TwoBit => "ternary2b",
            Packing::FiveInEight => "ternary5x8",
        }
    }

    /// Bytes of a row of `cols` weights.
    pub fn row_bytes(self, cols: u32) -> u32 {
        cols.div_ceil(self.trits())
    }

    /// Whether every byte is the encoding of some trits. Looks at all of them, so that the compiler takes many at once.
    fn valid(self, bytes: &[u8]) -> bool {
        match self {
            // No pair of bits is 3.
            Packing::TwoBit => bytes.iter().fold(0, |all, b| all | (b & b >> 1)) & 0x55 == 0,
            // With v = ⌊243·b / 256⌋ and t what is left, b = ⌈256·v / 243⌉ just when 243·(b − 1) < 256·v: when t < 243.
            Packing::FiveInEight => bytes.iter().fold(0, |most, b| b.wrapping_mul(243).max(most)) < 243,
        }
    }

    /// Whether the places of `byte` from `used` on hold 0.
    fn padded(self, byte: u8, used: usize) -> bool {
        match self {
            Packing::TwoBit => unpack4(byte).iter().skip(used).all(|t| *t == 0),
            Packing::FiveInEight => unpack5(byte).iter().skip(used).all(|t| *t == 0),
        }
    }
}

/// Packs up to four trits; missing ones count as 0. Values outside −1..=1 are clamped.
pub fn pack4(trits: &[i8]) -> u8 {
    (0..4).fold(0, |byte, n| byte | code(trits, n) << (2 * n))
}

/// The four trits of a `Ternary2b` byte. The unused code 3 reads as 1.
pub fn unpack4(byte: u8) -> [i8; 4] {
    [0u8, 2, 4, 6].map(|shift| (byte >> shift & 3).min(2).cast_signed() - 1)
}

/// Packs up to five trits; missing ones count as 0. Values outside −1..=1 are clamped.
pub fn pack5(trits: &[i8]) -> u8 {
    let v = (0..5).fold(0u16, |v, n| v * 3 + u16::from(code(trits, n)));
    fraction(v)
}

/// `v / 243` of 256, rounded up; at most 255 because `v` is at most 242.
fn fraction(v: u16) -> u8 {
    (v * 256).div_ceil(243) as u8
}

/// The five trits of a `Ternary5x8` byte: digit `n` is what `byte · 3^n mod 256`, times 3, carries past 8 bits.
pub fn unpack5(byte: u8) -> [i8; 5] {
    [1u8, 3, 9, 27, 81].map(|power| {
        let q = u16::from(byte.wrapping_mul(power));
        ((q * 3) >> 8) as i8 - 1
    })
}

/// `trit + 1` of place `n`, 1 when there is none.
fn code(trits: &[i8], n: usize) -> u8 {
    trits.get(n).map_or(1, |t| code_of(*t))
}

/// `trit + 1`; values outside −1..=1 are clamped.
pub(crate) fn code_of(trit: i8) -> u8 {
    (trit.clamp(-1, 1) + 1).cast_unsigned()
}

/// The five base-3 digits of `v`, at most 242, the first the most significant.
pub(crate) fn digits(v: u8) -> [u8; 5] {
    unpack5(fraction(v.into())).map(code_of)
}

/// The codes of a `Ternary5x8` byte, two bits each, the first lowest.
static CODES: [u16; 256] = {
    let mut codes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut rest, mut n) = (byte as u16, 0);
        while n < 5 {
            codes[byte] |= ((rest * 3) >> 8) << (2 * n);
            rest = (rest * 3) & 0xFF;
            n += 1;
        }
        byte += 1;
    }
    codes
};

/// Writes the bytes of one row of `cols` weights, packed either way, as `Ternary2b` packs them.
pub fn row_packed_2b(packing: Packing, cols: u32, row: &[u8], out: &mut [u8]) {
    let len = out.len().min(Packing::TwoBit.row_bytes(cols) as usize);
    let (out, _) = out.split_at_mut_checked(len).unwrap_or_default();
    if packing == Packing::TwoBit {
        out.iter_mut().zip(row).for_each(|(o, b)| *o = *b);
        return;
    }
    let codes = |byte: u8| u64::from(CODES.get(usize::from(byte)).copied().unwrap_or(0));
    let join = |[a, b, c, d]: [u8; 4]| codes(a) | codes(b) << 10 | codes(c) << 20 | codes(d) << 30;
    let (fours, rest) = row.as_chunks::<4>();
    let mut fives = out.chunks_mut(5);
    for (four, five) in fours.iter().zip(fives.by_ref()) {
        five.iter_mut().zip(join(*four).to_le_bytes()).for_each(|(o, b)| *o = b);
    }
    // Past the last byte everything is 0, as in it: 128 is the byte of five trits 0.
    let mut last = [0x80; 4];
    last.iter_mut().zip(rest).for_each(|(l, b)| *l = *b);
    if let Some(five) = fives.next() {
        five.iter_mut().zip(join(last).to_le_bytes()).for_each(|(o, b)| *o = b);
    }
}

/// Packed rows and two bytes of scale each.
pub fn payload_len(packing: Packing, rows: u32, cols: u32) -> Option<u64> {
    u64::from(rows).checked_mul(u64::from(packing.row_bytes(cols)) + 2)
}

/// Every byte is the encoding of trits, padding is 0, every scale is finite and not negative.
///
/// # Errors
/// [`Error::Codec`].
pub fn validate(packing: Packing, rows: u32, cols: u32, payload: &[u8]) -> Result<()> {
    let invalid = Error::Codec(packing.name());
    let (body, scales) = split_scales(rows, payload).ok_or(invalid)?;
    let used = match cols % packing.trits() {
        0 => packing.trits(),
        used => used,
    } as usize;
    let padded = |row: &[u8]| row.last().is_some_and(|tail| packing.padded(*tail, used));
    // max(1): chunks of zero bytes do not exist, and a matrix without columns is refused above.
    let stride = packing.row_bytes(cols).max(1) as usize;
    let full = used == packing.trits() as usize;
    let trits_valid = packing.valid(body) && (full || body.chunks(stride).all(padded));
    if trits_valid && scales_valid(scales) { Ok(()) } else { Err(invalid) }
}

/// Unpacks one row into trits.
pub fn unpack_row(packing: Packing, row: &[u8], out: &mut [i8]) {
    match packing {
        Packing::TwoBit => {
            for (o, b) in out.chunks_mut(4).zip(row) {
                o.iter_mut().zip(unpack4(*b)).for_each(|(o, t)| *o = t);
            }
        }
        Packing::FiveInEight => {
            for (o, b) in out.chunks_mut(5).zip(row) {
                o.iter_mut().zip(unpack5(*b)).for_each(|(o, t)| *o = t);
            }
        }
    }
}

/// Dequantises the bytes of one row.
pub fn decode_row(packing: Packing, row: &[u8], scale: f32, out: &mut [f32]) {
    match packing {
        Packing::TwoBit => {
            for (o, b) in out.chunks_mut(4).zip(row) {
                o.iter_mut().zip(unpack4(*b)).for_each(|(o, t)| *o = f32::from(t) * scale);
            }
        }
        Packing::FiveInEight => {
            for (o, b) in out.chunks_mut(5).zip(row) {
                o.iter_mut().zip(unpack5(*b)).for_each(|(o, t)| *o = f32::from(t) * scale);
            }
        }
    }
}
