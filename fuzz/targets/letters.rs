//! Fuzz target: see entry/letters.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("letters"), |bytes: &[u8]| conjoin_fuzz::run("letters", bytes));
