//! Weight codecs: how a matrix `[rows, cols]` becomes the bytes of a section, and back.
//!
//! Every codec stores each row byte-aligned, so that rows can be read, sliced and executed on their own.

use serde::{Deserialize, Serialize};

/// Parameters of SeedLM (Shafipour et al. 2024, arXiv 2410.10714): a block of `block` weights is
/// `U(seed) * t`, with `U` from a `bits`-bit LFSR and `coeffs` 4-bit coefficients under one shared 4-bit
/// exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedLmParams {
    /// Weights per block (C).
    pub block: u8,
    /// Coefficients per block (P).
    pub coeffs: u8,
    /// Width of the shift register (K).
    pub bits: u8,
    /// Power of two the whole tensor is multiplied with after decoding.
    pub exponent: i8,
}

/// Parameters of VPTQ (Liu et al. 2024, arXiv 2409.17066): a vector of `dim` neighbouring weights of a row
/// is a codebook entry, plus one of a residual codebook when `residual_bits > 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VptqParams {
    /// Weights per vector (v).
    pub dim: u8,
    /// log2 of the entries in the main codebook.
    pub index_bits: u8,
    /// log2 of the entries in the residual codebook, 0 for none.
    pub residual_bits: u8,
}

/// Parameters of Hyper-Compression (Fan et al. 2024, arXiv 2409.00592) with K = 2: a pair of weights is one
/// node of a winding over a square, with `rings` scale classes outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HyperParams {
    /// Nodes in the square (U).
    pub nodes: u16,
    /// Rings outside the square (M).
    pub rings: u8,
}

/// How a tensor's payload is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// IEEE 754 single precision, little-endian.
    F32,
    /// IEEE 754 half precision, little-endian.
    F16,
    /// One f16 scale a row, then one signed byte a weight.
    Int8Row,
    /// One f16 scale a row, then four trits a byte: code `trit + 1`, least significant bits first.
    Ternary2b,
    /// One f16 scale a row, then five trits a byte in base 3 as a fixed-point fraction.
    Ternary5x8,
    /// Pseudo-random bases from a shift register.
    SeedLm(SeedLmParams),
    /// Vector quantisation with shared codebooks.
    Vptq(VptqParams),
    /// Irrational-winding lattice.
    Hyper(HyperParams),
}
