//! Fuzz target: see entry/decode.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("decode"), |bytes: &[u8]| conjoin_fuzz::run("decode", bytes));
