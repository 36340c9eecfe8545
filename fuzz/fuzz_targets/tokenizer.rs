#![no_main]
//! See `forge_fuzz::tokenizer`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| forge_fuzz::tokenizer(data));
