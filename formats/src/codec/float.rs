//! `F32` and `F16`: IEEE 754 values, little-endian, row-major.

use half::f16;

use crate::error::{Error, Result};

/// Which of the two float codecs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Single precision, four bytes.
    F32,
    /// Half precision, two bytes.
    F16,
}

impl Width {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Width::F32 => 4,
            Width::F16 => 2,
        }
    }
}

/// `rows * cols` values, nothing else.
pub fn payload_len(width: Width, rows: u32, cols: u32) -> Option<u64> {
    u64::from(rows).checked_mul(u64::from(cols))?.checked_mul(width.bytes() as u64)
}

/// Every value must be finite.
///
/// # Errors
/// [`Error::Codec`].
pub fn validate(width: Width, payload: &[u8]) -> Result<()> {
    // One more in the exponent carries into the sign just where it is all ones. Values are looked at without leaving
    // early, so that the compiler takes many at once.
    let (carries, name) = match width {
        Width::F32 => {
            let carry = |b: &[u8; 4]| (u32::from_le_bytes(*b) & 0x7FFF_FFFF) + 0x0080_0000;
            (payload.as_chunks().0.iter().fold(0, |all, b| all | carry(b)) >> 31, "f32")
        }
        Width::F16 => {
            let carry = |b: &[u8; 2]| (u16::from_le_bytes(*b) & 0x7FFF) + 0x0400;
            (u32::from(payload.as_chunks().0.iter().fold(0, |all, b| all | carry(b)) >> 15), "f16")
        }
    };
    if carries == 0 { Ok(()) } else { Err(Error::Codec(name)) }
}

/// Widens the bytes of one row.
pub fn decode_row(width: Width, row: &[u8], out: &mut [f32]) {
    match width {
        Width::F32 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Width::F16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
    }
}
