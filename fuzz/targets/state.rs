//! Fuzz target: see entry/state.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("state"), |bytes: &[u8]| conjoin_fuzz::run("state", bytes));
