//! Multiplies int8 numbers in registers as fast as the units of this machine allow.
//!
//! In assembly, because a compiler sees that the operands never change and lifts the products out of the loop.

/// An instruction for products of int8 numbers, as the runtime's kernels use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// What the compiler makes of a plain loop for the baseline of the target, operands in the first cache.
    Portable,
    /// `pmaddubsw` and an addition of 16-bit sums, 16 bytes wide.
    #[cfg(target_arch = "x86_64")]
    Sse41,
    /// `vpmaddubsw` and an addition of 16-bit sums, 32 bytes wide.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `vpdpbusd`, 64 bytes wide.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

/// Repetitions of the instructions inside the assembly.
const TURNS: u64 = 64;
/// Length of the vectors of the portable loop.
const PORTABLE: usize = 4096;

impl Unit {
    /// The units this machine has, the best last.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let candidates = [
                (Self::Sse41, std::arch::is_x86_feature_detected!("sse4.1")),
                (Self::Avx2, std::arch::is_x86_feature_detected!("avx2")),
                (
                    Self::Avx512Vnni,
                    std::arch::is_x86_feature_detected!("avx512f")
                        && std::arch::is_x86_feature_detected!("avx512vnni"),
                ),
            ];
            let present = candidates.into_iter().filter_map(|(unit, there)| there.then_some(unit));
            std::iter::once(Self::Portable).chain(present).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        vec![Self::Portable]
    }

    /// The unit that the kernels called `isa` multiply with, or the best this machine has.
    pub(crate) fn of_isa(isa: &str) -> Self {
        let all = Self::all();
        let named = all.iter().find(|unit| unit.isa() == isa).or(all.last());
        named.copied().unwrap_or(Self::Portable)
    }

    /// The name of the runtime's kernels that use it.
    pub(crate) fn isa(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Sse41 => "sse41",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512",
        }
    }

    /// Multiply-accumulates of one turn.
    pub(super) fn macs(self) -> f64 {
        let one = match self {
            Self::Portable => return PORTABLE as f64,
            #[cfg(target_arch = "x86_64")]
            Self::Sse41 => 4 * 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6 * 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => 12 * 64,
        };
        (one * TURNS) as f64
    }

    /// Multiplies for so many turns.
    pub(super) fn run(self, times: u64) {
        match self {
            Self::Portable => portable(times),
            // SAFETY: `all` names this unit only where SSE4.1 was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Sse41 => unsafe { x86::sse41(times * TURNS) },
            // SAFETY: `all` names this unit only where AVX2 was detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(times * TURNS) },
            // SAFETY: `all` names this unit only where AVX-512F and its VNNI were detected.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { x86::avx512_vnni(times * TURNS) },
        }
    }
}

/// Dot products of vectors that stay in the first cache.
fn portable(times: u64) {
    let (a, b) = ([3i8; PORTABLE], [1i8; PORTABLE]);
    for _ in 0..times {
        let (a, b) = std::hint::black_box((&a, &b));
        std::hint::black_box(a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>());
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{_mm_set1_epi8, _mm256_set1_epi8, _mm512_set1_epi8};

    /// Four chains of `pmaddubsw` and `paddw`.
    #[target_feature(enable = "sse4.1")]
    pub(super) fn sse41(times: u64) {
        // SAFETY: writes no memory, names every register it changes, and `times` is above 0 or the loop wraps to
        // 2^64 turns, which is still defined.
        unsafe {
            asm!("2:",
                "movdqa xmm4, xmm14", "pmaddubsw xmm4, xmm15", "paddw xmm0, xmm4",
                "movdqa xmm5, xmm14", "pmaddubsw xmm5, xmm15", "paddw xmm1, xmm5",
                "movdqa xmm6, xmm14", "pmaddubsw xmm6, xmm15", "paddw xmm2, xmm6",
                "movdqa xmm7, xmm14", "pmaddubsw xmm7, xmm15", "paddw xmm3, xmm7",
                "dec {n}", "jnz 2b", n = inout(reg) times => _,
                in("xmm14") _mm_set1_epi8(3), in("xmm15") _mm_set1_epi8(1),
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                options(nomem, nostack));
        }
    }

    /// Six chains of `vpmaddubsw` and `vpaddw`.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(times: u64) {
        // SAFETY: as for `sse41`.
        unsafe {
            asm!("2:",
                "vpmaddubsw ymm8, ymm14, ymm15", "vpmaddubsw ymm9, ymm14, ymm15",
                "vpmaddubsw ymm10, ymm14, ymm15", "vpmaddubsw ymm11, ymm14, ymm15",
                "vpmaddubsw ymm12, ymm14, ymm15", "vpmaddubsw ymm13, ymm14, ymm15",
                "vpaddw ymm0, ymm0, ymm8", "vpaddw ymm1, ymm1, ymm9", "vpaddw ymm2, ymm2, ymm10",
                "vpaddw ymm3, ymm3, ymm11", "vpaddw ymm4, ymm4, ymm12", "vpaddw ymm5, ymm5, ymm13",
                "dec {n}", "jnz 2b", n = inout(reg) times => _,
                in("ymm14") _mm256_set1_epi8(3), in("ymm15") _mm256_set1_epi8(1),
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _,
                options(nomem, nostack));
        }
    }

    /// Twelve chains of `vpdpbusd`: more than two units and a latency of five need.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn avx512_vnni(times: u64) {
        // SAFETY: as for `sse41`.
        unsafe {
            asm!("2:",
                "vpdpbusd zmm0, zmm16, zmm17", "vpdpbusd zmm1, zmm16, zmm17", "vpdpbusd zmm2, zmm16, zmm17",
                "vpdpbusd zmm3, zmm16, zmm17", "vpdpbusd zmm4, zmm16, zmm17", "vpdpbusd zmm5, zmm16, zmm17",
                "vpdpbusd zmm6, zmm16, zmm17", "vpdpbusd zmm7, zmm16, zmm17", "vpdpbusd zmm8, zmm16, zmm17",
                "vpdpbusd zmm9, zmm16, zmm17", "vpdpbusd zmm10, zmm16, zmm17", "vpdpbusd zmm11, zmm16, zmm17",
                "dec {n}", "jnz 2b", n = inout(reg) times => _,
                in("zmm16") _mm512_set1_epi8(3), in("zmm17") _mm512_set1_epi8(1),
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                options(nomem, nostack));
        }
    }
}
