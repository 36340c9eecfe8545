//! Compiles plain Rust loops for the widest vector instructions of the machine. The loops are written over fixed
//! lanes; the compiler neither reorders nor contracts them, so every version gives the same bits.

/// Vector instructions of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What the target guarantees.
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The highest level the processor supports; detected once by the standard library.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq") {
            return Level::Avx512;
        }
        if has!("avx2") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Defines a function whose body is compiled once per [`Level`] and dispatched at run time. Functions it calls
/// take part when they are `#[inline(always)]`; closures that are not inlined do not.
macro_rules! vectorised {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                portable($($arg),*)
            }

            match $crate::nn::ops::simd::level() {
                $crate::nn::ops::simd::Level::Portable => portable($($arg),*),
                // SAFETY: `level` has just detected every feature the function is compiled for.
                #[cfg(target_arch = "x86_64")]
                $crate::nn::ops::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: `level` has just detected every feature the function is compiled for.
                #[cfg(target_arch = "x86_64")]
                $crate::nn::ops::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    )+};
}

pub(crate) use vectorised;
