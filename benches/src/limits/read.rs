//! Reads memory as fast as the widest loads of this machine allow.

/// Which loads to read with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// What the compiler makes of a plain loop for the baseline of the target.
    Plain,
    /// 32-byte loads.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64-byte loads.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Reader {
    /// Buffers are a multiple of this long.
    pub(crate) const STEP: usize = 512;

    /// The widest.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Reads all of `bytes` once. The result depends on every byte, so that none of the loads can be left out.
    pub(crate) fn read(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Plain => plain(bytes),
            // SAFETY: `best` makes this variant only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(bytes) },
            // SAFETY: `best` makes this variant only where AVX-512F was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { x86::avx512(bytes) },
        }
    }
}

/// Exclusive or of all words, in 64 independent chains.
#[inline(always)]
fn plain(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; Reader::STEP / 8];
    for block in bytes.as_chunks::<{ Reader::STEP }>().0 {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane ^= u64::from_ne_bytes(*word);
        }
    }
    lanes.iter().fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_loadu_si256, _mm256_setzero_si256, _mm256_xor_si256, _mm512_loadu_si512, _mm512_setzero_si512,
        _mm512_xor_si512,
    };

    use super::Reader;

    /// As `plain`, in eight chains of 32 bytes.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(bytes: &[u8]) -> u64 {
        let mut lanes = [_mm256_setzero_si256(); 8];
        for block in bytes.as_chunks::<{ Reader::STEP }>().0 {
            for (i, part) in block.as_chunks::<32>().0.iter().enumerate() {
                // SAFETY: the part is 32 bytes long, and the load needs no alignment.
                let word = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
                lanes[i % 8] = _mm256_xor_si256(lanes[i % 8], word);
            }
        }
        let all = lanes.into_iter().reduce(|a, b| _mm256_xor_si256(a, b)).unwrap_or(_mm256_setzero_si256());
        // SAFETY: both types are 32 plain bytes.
        let words: [u64; 4] = unsafe { std::mem::transmute(all) };
        words.iter().fold(0, |a, b| a ^ b)
    }

    /// As `plain`, in eight chains of 64 bytes.
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(bytes: &[u8]) -> u64 {
        let mut lanes = [_mm512_setzero_si512(); 8];
        for block in bytes.as_chunks::<{ Reader::STEP }>().0 {
            for (lane, part) in lanes.iter_mut().zip(block.as_chunks::<64>().0) {
                // SAFETY: the part is 64 bytes long, and the load needs no alignment.
                let word = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
                *lane = _mm512_xor_si512(*lane, word);
            }
        }
        let all = lanes.into_iter().reduce(|a, b| _mm512_xor_si512(a, b)).unwrap_or(_mm512_setzero_si512());
        // SAFETY: both types are 64 plain bytes.
        let words: [u64; 8] = unsafe { std::mem::transmute(all) };
        words.iter().fold(0, |a, b| a ^ b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_reads_every_byte() {
        let mut bytes = vec![0u8; 4 * Reader::STEP];
        for at in 0..bytes.len() {
            bytes[at] = 1 << (at % 8);
            assert_eq!(Reader::best().read(&bytes), plain(&bytes), "byte {at}");
            assert_ne!(Reader::best().read(&bytes), 0, "byte {at}");
            bytes[at] = 0;
        }
    }
}
