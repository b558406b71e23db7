//! Fuzz target: see entry/config.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("config"), |bytes: &[u8]| conjoin_fuzz::run("config", bytes));
