//! Compiles the generic bodies for an instruction set.
#![allow(unsafe_code)]

/// The table of float operations compiled with `$feature`.
///
/// # Safety of what it makes
/// The functions must run only on processors that have `$feature`: the caller of the macro puts the table where it is
/// given out after that has been found out.
#[allow(unused_macros, reason = "not every target has an instruction set of its own")]
macro_rules! floats_with {
    ($feature:literal) => {{
        use $crate::kernels::dispatch::compiled;
        use $crate::kernels::generic::{self, HeadF32, HeadInt8, Meta};
        use $crate::kernels::{Floats, Outputs};
        use forge_formats::Matrix;
        Floats {
            norm: compiled!($feature, norm(x: &[f32], eps: f32, out: &mut [f32]) => generic::norm),
            norm_in_place: compiled!($feature, norm_in_place(x: &mut [f32], eps: f32) => generic::norm_in_place),
            norm_gained: compiled!($feature, norm_gained(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) => generic::norm_gained),
            quantise: compiled!($feature, quantise(x: &[f32], q: &mut [i8]) -> Meta => generic::quantise),
            rotate: compiled!($feature, rotate(x: &mut [f32], turns: &[f32]) => generic::rotate),
            attend: compiled!($feature, attend(head: &HeadF32<'_>, query: &[f32], scale: f32, scratch: &mut [f32], out: &mut [f32])
                    => generic::attend_fixed),
            attend_int8: compiled!($feature, attend_int8(head: &HeadInt8<'_>, query: &[f32], scale: f32, scratch: &mut [f32], out: &mut [f32])
                    => generic::attend_int8),
            attend_hybrid: compiled!($feature, attend_hybrid(parts: &[HeadF32<'_>; 2], query: &[f32], scale: f32, scratch: &mut [f32], out: &mut [f32])
                    => generic::attend_hybrid_fixed),
            attend_hybrid_int8: compiled!($feature, attend_hybrid_int8(parts: &[HeadInt8<'_>; 2], query: &[f32], scale: f32, scratch: &mut [f32], out: &mut [f32])
                    => generic::attend_hybrid_int8),
            store_int8: compiled!($feature, store_int8(x: &[f32], q: &mut [i8]) -> f32 => generic::store_int8),
            swiglu: compiled!($feature, swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) => generic::swiglu),
            relu2: compiled!($feature, relu2(gate: &[f32], up: &[f32], out: &mut [f32]) => generic::relu2),
            add: compiled!($feature, add(x: &mut [f32], y: &[f32]) => generic::add),
            remember: compiled!($feature, remember(memory: &mut [f32], values: &[f32], rates: &[f32], bias: &[f32]) => generic::remember),
            associate: compiled!($feature, associate(state: &mut [f32], projected: &mut [f32], bias: &[f32], read: &mut [f32]) => generic::associate),
            blend: compiled!($feature, blend(o: &mut [f32], m: &[f32], gate: &[f32]) => generic::blend),
            float_rows: compiled!($feature, float_rows(w: &Matrix<'_>, xs: &[f32], stride: usize, row: &mut [f32], out: &mut Outputs<'_>)
                    => generic::float_rows),
        }
    }};
}

/// `$body`, or a kernel that itself has the feature, as a function pointer that anyone may call.
#[allow(unused_macros, reason = "not every target has an instruction set of its own")]
macro_rules! compiled {
    ($feature:literal, $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? => $body:path) => {{
        fn $name($($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = $feature)]
            #[inline]
            fn inner($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            // SAFETY: the table that holds this function is given out only where the feature has been found.
            unsafe { inner($($arg),*) }
        }
        $name
    }};
}

#[allow(unused_imports, reason = "not every target has an instruction set of its own")]
pub(crate) use {compiled, floats_with};
