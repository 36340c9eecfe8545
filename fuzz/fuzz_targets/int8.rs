#![no_main]
//! See `forge_fuzz::int8`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::int8(data));
