//! Fuzz target: see entry/start.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("start"), |bytes: &[u8]| conjoin_fuzz::run("start", bytes));
