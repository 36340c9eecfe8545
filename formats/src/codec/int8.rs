//! `Int8Row`: `rows * cols` signed bytes, then one f16 scale a row. A weight is `byte * scale`.

use crate::codec::{scales_valid, split_scales};
use crate::error::{Error, Result};

/// One byte a weight and two a row.
pub fn payload_len(rows: u32, cols: u32) -> Option<u64> {
    u64::from(rows).checked_mul(u64::from(cols))?.checked_add(2 * u64::from(rows))
}

/// No weight is −128 (so that a kernel may negate it), every scale is finite and not negative.
///
/// # Errors
/// [`Error::Codec`].
pub fn validate(rows: u32, _cols: u32, payload: &[u8]) -> Result<()> {
    let (body, scales) = split_scales(rows, payload).ok_or(Error::Codec("int8"))?;
    // Without leaving early, so that the compiler takes many at once.
    let below = body.iter().fold(false, |any, b| any | (*b == 0x80));
    if below || !scales_valid(scales) {
        return Err(Error::Codec("int8"));
    }
    Ok(())
}

/// Dequantises the bytes of one row.
pub fn decode_row(row: &[u8], scale: f32, out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(row) {
        *o = f32::from(b.cast_signed()) * scale;
    }
}
