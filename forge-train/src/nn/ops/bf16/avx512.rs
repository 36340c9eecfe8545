//! `vdpbf16ps`, a row of pairs broadcast against two registers of columns, and packing with the instructions that
//! round.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_shuffle_i32x4, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::pack::{Packer, Side, Square, Strided, pack_with};
use super::{COLUMNS, Pair, SPAN, Tile};

/// Rows of a tile: 24 sums, two columns and a row are 27 of 32 registers.
pub(super) const ROWS: usize = 12;

/// Whether the processor has the instruction.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512bf16")
}

/// The product of two panels in the first rows of `tile`.
///
/// # Panics
/// If the panels are of different depths, or the processor lacks the instruction.
pub(super) fn multiply(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    assert!(available(), "no AVX512-BF16");
    assert!(a.len() / ROWS <= b.len() / COLUMNS, "panels of different depths");
    // SAFETY: the features have been detected, and `b` is as deep as `a`, whose length says how deep both are read.
    unsafe { panels(a, b, tile) }
}

/// # Safety
/// The processor must have AVX-512F and AVX512-BF16, and `b` must be as deep as `a`.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn panels(a: &[Pair], b: &[Pair], tile: &mut Tile) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    // SAFETY: any 512 bits are a vector of bf16 numbers.
    let bf16 = |v: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
    let mut right = b.as_ptr();
    for a in a.as_chunks::<{ ROWS * SPAN }>().0 {
        for pair in 0..SPAN {
            // SAFETY: `b` holds 32 pairs of columns for each pair of a row of `a`.
            let columns = unsafe {
                [bf16(_mm512_loadu_si512(right.cast())), bf16(_mm512_loadu_si512(right.add(16).cast()))]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                let pair = bf16(_mm512_set1_epi32(a[row * SPAN + pair].cast_signed()));
                sums[0] = _mm512_dpbf16_ps(sums[0], pair, columns[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], pair, columns[1]);
            }
            // SAFETY: at most one past the end.
            right = unsafe { right.add(COLUMNS) };
        }
    }
    for (out, sums) in tile.0.iter_mut().zip(sums) {
        // SAFETY: a row of the tile has room for two registers.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
}

/// The instructions that round and move pairs, known to be there.
#[derive(Clone, Copy)]
pub(super) struct Instructions(());

impl Instructions {
    /// Where the processor has them.
    pub(super) fn detected() -> Option<Self> {
        available().then_some(Self(()))
    }

    /// Packs a panel.
    pub(super) fn pack(self, side: Side, part: Strided<'_>, panel: &mut [Pair]) {
        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        fn compiled(packer: Instructions, side: Side, part: Strided<'_>, panel: &mut [Pair]) {
            pack_with(packer, side, part, panel);
        }
        // SAFETY: there is no value of this type where the features were not detected.
        unsafe { compiled(self, side, part, panel) }
    }
}

impl Packer for Instructions {
    #[inline(always)]
    fn along(self, numbers: &[f32; 2 * SPAN]) -> [Pair; SPAN] {
        // SAFETY: there is no value of this type where the features were not detected.
        unsafe { round_along(numbers) }
    }

    #[inline(always)]
    fn across(self, first: &[f32; SPAN], second: &[f32; SPAN]) -> [Pair; SPAN] {
        // SAFETY: as above.
        unsafe { round_across(first, second) }
    }

    #[inline(always)]
    fn transpose(self, square: &mut Square) {
        // SAFETY: as above.
        unsafe { transpose(square) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_along(numbers: &[f32; 2 * SPAN]) -> [Pair; SPAN] {
    let (low, high) = numbers.split_at(SPAN);
    pairs(_mm512_cvtne2ps_pbh(load(high), load(low)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round_across(first: &[f32; SPAN], second: &[f32; SPAN]) -> [Pair; SPAN] {
    /// The first half and the second half of 32 numbers in turn.
    static IN_TURN: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + 16 * (i % 2)) as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 bytes are read of an array of as many, and any of them are 32 numbers.
    let order = unsafe { _mm512_loadu_si512((&raw const IN_TURN).cast()) };
    let halves = _mm512_cvtne2ps_pbh(load(second), load(first));
    // SAFETY: both are 512 bits, of which any are valid.
    let halves = unsafe { std::mem::transmute::<__m512bh, __m512i>(halves) };
    let mut pairs = [0; SPAN];
    // SAFETY: an array of 16 pairs is 64 bytes.
    unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, halves)) };
    pairs
}

/// 16 numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32]) -> __m512 {
    assert!(numbers.len() == SPAN);
    // SAFETY: there are 16 numbers.
    unsafe { _mm512_loadu_ps(numbers.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(numbers: __m512bh) -> [Pair; SPAN] {
    // SAFETY: both are 512 bits, of which any are valid.
    unsafe { std::mem::transmute(numbers) }
}

/// In four rounds: pairs, then twos of them, change places within quarters of a register, then quarters do.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(square: &mut Square) {
    // SAFETY: a row is 64 bytes.
    let mut rows: [__m512i; SPAN] =
        std::array::from_fn(|r| unsafe { _mm512_loadu_si512(square[r].as_ptr().cast()) });
    for four in rows.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *four;
        let [low, high] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let [lower, higher] = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
        *four = [
            _mm512_unpacklo_epi64(low, lower),
            _mm512_unpackhi_epi64(low, lower),
            _mm512_unpacklo_epi64(high, higher),
            _mm512_unpackhi_epi64(high, higher),
        ];
    }
    // Now row 4i + j holds column j of each quarter's 4 × 4 pairs: quarter q that of columns 4q + j.
    for j in 0..4 {
        let [a, b, c, d] = [rows[j], rows[4 + j], rows[8 + j], rows[12 + j]];
        let [even, odd] = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xDD>(a, b)];
        let [evens, odds] = [_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xDD>(c, d)];
        let columns = [
            _mm512_shuffle_i32x4::<0x88>(even, evens),
            _mm512_shuffle_i32x4::<0x88>(odd, odds),
            _mm512_shuffle_i32x4::<0xDD>(even, evens),
            _mm512_shuffle_i32x4::<0xDD>(odd, odds),
        ];
        for (quarter, column) in columns.into_iter().enumerate() {
            // SAFETY: a row is 64 bytes.
            unsafe { _mm512_storeu_si512(square[4 * quarter + j].as_mut_ptr().cast(), column) };
        }
    }
}
