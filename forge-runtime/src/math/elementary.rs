//! Functions of one number.
//!
//! The polynomials are minimax fits (Remez exchange) with their coefficients rounded to `f32`; each
//! function's measured error against `f64` is stated at the function and asserted by the tests below.

/// `1.5 · 2²³`: added to a small number it leaves no room for a fraction, so that the addition rounds.
pub(crate) const ROUNDER: f32 = 12_582_912.0;
/// log₂ e.
const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has so few bits that its product with an exponent is exact (Cody & Waite).
const LN2_HIGH: f32 = 0.693_359_4;
/// The rest of ln 2.
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `x` rounded to the nearest integer, ties to even, for `|x| < 2²²`.
#[inline(always)]
pub fn round_even(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// `x` held to `[low, high]`, neither of which is zero; a NaN becomes `low`.
#[inline(always)]
pub fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = number_or(x, low);
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// `max(x, 0)`; a NaN becomes 0.
#[inline(always)]
pub(crate) fn relu(x: f32) -> f32 {
    let x = number_or(x, -1.0);
    // The last step makes −0, which a relaxed maximum may give, to 0.
    (if x > 0.0 { x } else { 0.0 }) + if RELAXED { 0.0 } else { -0.0 }
}

/// Whether this build has WebAssembly's relaxed SIMD.
///
/// LLVM then takes `if x > y { x } else { y }` for a relaxed maximum, and what that gives of a NaN, or of zeros of
/// either sign, is the engine's choice: neither must reach it.
const RELAXED: bool = cfg!(target_feature = "relaxed-simd");

/// `x`, or `otherwise` in the place of a NaN where a maximum would not do that by itself.
#[inline(always)]
pub(crate) fn number_or(x: f32, otherwise: f32) -> f32 {
    if RELAXED && x.is_nan() { otherwise } else { x }
}

/// `x · 2ᵏ` for the integer `k` whose rounded sum with [`ROUNDER`] is `shifted`; `−126 ≤ k ≤ 127`.
#[inline(always)]
fn scale_by_power(x: f32, shifted: f32) -> f32 {
    // The upper bits of `shifted` are a constant whose low nine bits are zero: the shift drops all of it.
    x * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `eˣ` with the argument held to `[−87, 88]`. Relative error at most 1.1e-7; `exp(0)` is exactly 1.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = clamp(x, -87.0, 88.0);
    let shifted = x * LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut p = 0.001_381_460_1;
    p = p * r + 0.008_368_717;
    p = p * r + 0.041_668_39;
    p = p * r + 0.166_665_21;
    p = p * r + 0.499_999_94;
    scale_by_power((p * (r * r) + r) + 1.0, shifted)
}

/// `2ˣ` with the argument held to `[−126, 127]`. Relative error at most 1.2e-7; exact for integers.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = clamp(x, -126.0, 127.0);
    let shifted = x + ROUNDER;
    let r = x - (shifted - ROUNDER);
    let mut p = 0.000_153_533_85;
    p = p * r + 0.001_339_887_3;
    p = p * r + 0.009_618_437;
    p = p * r + 0.055_503_324;
    p = p * r + 0.240_226_48;
    p = p * r + core::f32::consts::LN_2;
    scale_by_power(p * r + 1.0, shifted)
}

/// The logistic function `1 / (1 + e⁻ˣ)`. Relative error at most 2e-7.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x · sigmoid(x)` (the SiLU or swish function).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The square root, correctly rounded as the standard has it.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    // The standard library's becomes an instruction of the set the caller is compiled for; `libm`'s, on x86-64, mixes
    // one of SSE into code for AVX, at a cost.
    #[cfg(feature = "std")]
    return x.sqrt();
    #[cfg(not(feature = "std"))]
    libm::sqrtf(x)
}

/// `1 / sqrt(x)`, two correctly rounded operations.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    1.0 / sqrt(x)
}

/// `sin 2πt`, for `|t| < 2²²`. Absolute error at most 2e-7; `sin_turns(0)` is exactly 0.
#[inline(always)]
pub fn sin_turns(t: f32) -> f32 {
    let r = t - round_even(t);
    // sin is symmetric about a quarter turn; the subtraction is exact for |r| in [¼, ½].
    let far = 0.5f32.copysign(r) - r;
    let r = if r.abs() > 0.25 { far } else { r };
    let s = r * r;
    let mut p = 39.761_616;
    p = p * s - 76.581_4;
    p = p * s + 81.602_486;
    p = p * s - 41.341_682;
    p = p * s + 6.283_185_5;
    p * r
}

/// `cos 2πt`, for `|t| < 2²²`. Absolute error at most 1.5e-7; `cos_turns(0)` is exactly 1.
#[inline(always)]
pub fn cos_turns(t: f32) -> f32 {
    let r = (t - round_even(t)).abs();
    let fold = r > 0.25;
    let r = if fold { 0.5 - r } else { r };
    let s = r * r;
    let mut p = -25.006_952;
    p = p * s + 60.148_23;
    p = p * s - 85.453_835;
    p = p * s + 64.939_354;
    p = p * s - 19.739_208;
    let c = p * s + 1.0;
    if fold { -c } else { c }
}

/// A finite f16, given by its little-endian bytes, as the same number in `f32`.
#[inline(always)]
pub fn widen_f16(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    // Exponent and mantissa in their new place mean 2¹¹² less than they should, subnormal or not; the product is
    // exact.
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * f32::from_bits((112 + 127) << 23);
    f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::f64::consts::TAU;

    /// Largest error of `f` against `exact` over `steps + 1` points of `[low, high]`.
    fn worst(low: f64, high: f64, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, relative: bool) -> f64 {
        let steps = 2_000_000;
        (0..=steps)
            .map(|i| {
                let x = (low + (high - low) * f64::from(i) / f64::from(steps)) as f32;
                let want = exact(f64::from(x));
                let error = (f64::from(f(x)) - want).abs();
                if relative { error / want.abs() } else { error }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_its_bound() {
        let error = worst(-87.0, 88.0, exp, f64::exp, true);
        assert!(error < 1.1e-7, "exp {error:e}");
        let error = worst(-0.4, 0.4, exp, f64::exp, true);
        assert!(error < 1.1e-7, "exp near 0 {error:e}");
        assert!(error > 1e-9, "a bound of nothing");
    }

    #[test]
    fn exp2_is_within_its_bound() {
        let error = worst(-126.0, 127.0, exp2, f64::exp2, true);
        assert!(error < 1.2e-7, "exp2 {error:e}");
        for k in -126..=127 {
            assert_eq!(f64::from(exp2(k as f32)), f64::from(k).exp2());
        }
    }

    #[test]
    fn sigmoid_and_silu_are_within_their_bounds() {
        let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
        let error = worst(-80.0, 80.0, sigmoid, exact, true);
        assert!(error < 2e-7, "sigmoid {error:e}");
        let error = worst(0.001, 80.0, silu, |x| x * exact(x), true);
        assert!(error < 3e-7, "silu {error:e}");
    }

    #[test]
    fn turns_are_within_their_bounds() {
        for (low, high) in [(-1.0, 1.0), (-0.26, -0.24), (1000.0, 1003.0), (-4e6, 4e6)] {
            let reduced = |f: fn(f64) -> f64| move |t: f64| f((t - t.round()) * TAU);
            let sin = worst(low, high, sin_turns, reduced(f64::sin), false);
            let cos = worst(low, high, cos_turns, reduced(f64::cos), false);
            assert!(sin < 2e-7 && cos < 1.5e-7, "[{low}, {high}] sin {sin:e} cos {cos:e}");
        }
    }

    #[test]
    fn every_finite_f16_widens_exactly() {
        for bits in (0..=u16::MAX).filter(|b| b & 0x7C00 != 0x7C00) {
            // IEEE 754: sign, five exponent bits with bias 15, ten bits of mantissa.
            let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
            let magnitude = match exponent {
                0 => mantissa * (-24f64).exp2(),
                e => (1024.0 + mantissa) * f64::from(e - 25).exp2(),
            };
            let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
            assert_eq!(widen_f16(bits.to_le_bytes()).to_bits(), ((sign * magnitude) as f32).to_bits());
        }
    }

    #[test]
    fn special_points_are_exact() {
        assert_eq!((exp(0.0), exp2(0.0), sigmoid(0.0)), (1.0, 1.0, 0.5));
        assert_eq!((sin_turns(0.0), cos_turns(0.0)), (0.0, 1.0));
        assert_eq!((sin_turns(0.5), cos_turns(0.5)), (0.0, -1.0));
        assert_eq!((exp(-1000.0), exp(1000.0)), (exp(-87.0), exp(88.0)));
        assert_eq!(exp(f32::NAN), exp(-87.0));
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5, 2.499].map(round_even), [0.0, 2.0, 2.0, 0.0, -2.0, 2.0]);
        for i in 0..2000 {
            let x = i as f32 * 0.37 - 300.0;
            assert_eq!(round_even(x), x.round_ties_even());
        }
    }
}
