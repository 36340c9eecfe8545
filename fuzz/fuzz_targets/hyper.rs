#![no_main]
//! See `forge_fuzz::hyper`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::hyper(data));
