//! Parameter sets worth trying, named by their bits a weight on a large matrix.

use forge_formats::codec::{Codec, HyperParams, SeedLmParams, VptqParams};

const fn seedlm(block: u8, coeffs: u8) -> Codec {
    Codec::SeedLm(SeedLmParams { block, coeffs, bits: 16, exponent: 0 })
}

const fn vptq(dim: u8, index_bits: u8, residual_bits: u8) -> Codec {
    Codec::Vptq(VptqParams { dim, index_bits, residual_bits })
}

/// SeedLM at 4 bits, as published (C = 8, P = 3, K = 16).
pub const SEEDLM_4: Codec = seedlm(8, 3);
/// SeedLM at 3 bits, as published (C = 12, P = 4, K = 16).
pub const SEEDLM_3: Codec = seedlm(12, 4);
/// SeedLM at 2 bits (C = 16, P = 3, K = 16).
pub const SEEDLM_2: Codec = seedlm(16, 3);
/// VPTQ at 4 bits: 256 vectors of 4 weights, twice.
pub const VPTQ_4: Codec = vptq(4, 8, 8);
/// VPTQ at 3 bits: 64 vectors of 2 weights.
pub const VPTQ_3: Codec = vptq(2, 6, 0);
/// VPTQ at 2 bits: 256 vectors of 4 weights.
pub const VPTQ_2: Codec = vptq(4, 8, 0);
/// VPTQ at 1 bit: 256 vectors of 8 weights.
pub const VPTQ_1: Codec = vptq(8, 8, 0);
/// Hyper-Compression at 4 bits (U = 225, no rings).
pub const HYPER_4: Codec = Codec::Hyper(HyperParams { nodes: 225, rings: 0 });
/// Hyper-Compression at 5.5 bits (U = 361, three rings).
pub const HYPER_5: Codec = Codec::Hyper(HyperParams { nodes: 361, rings: 3 });

/// All of them, by falling rate.
pub const ALL: [Codec; 9] = [HYPER_5, HYPER_4, SEEDLM_4, VPTQ_4, SEEDLM_3, VPTQ_3, SEEDLM_2, VPTQ_2, VPTQ_1];
