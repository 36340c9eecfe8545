//! Hyper-Compression: this reader refuses the codec.

use super::HyperParams;
use crate::error::{Error, Result};

/// No payload is accepted, so none has a length.
pub fn payload_len(_params: &HyperParams, _rows: u32, _cols: u32) -> Option<u64> {
    None
}

/// Refuses every payload.
///
/// # Errors
/// Always [`Error::Codec`].
pub fn validate(_params: &HyperParams, _rows: u32, _cols: u32, _payload: &[u8]) -> Result<()> {
    Err(Error::Codec("hyper"))
}

/// Unreachable through a validated matrix; the row is zero.
pub fn decode_row(
    _params: &HyperParams,
    _rows: u32,
    _cols: u32,
    _payload: &[u8],
    _row: u32,
    out: &mut [f32],
) {
    out.fill(0.0);
}
