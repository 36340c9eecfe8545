//! `libforge`: the functions of `include/forge.h`, which [`forge_runtime::capi`] defines.
//!
//! A crate of its own, so that the runtime stays a plain Rust library: nobody who depends on it builds these libraries,
//! and only here must a library without std say what happens on a panic.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

pub use forge_runtime::capi::*;

/// Nothing in the library panics: `examples/c/check.sh` looks at the symbols of a program that links all of it.
#[cfg(not(feature = "std"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
