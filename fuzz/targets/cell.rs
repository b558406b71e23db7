//! Fuzz target: see entry/cell.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("cell"), |bytes: &[u8]| conjoin_fuzz::run("cell", bytes));
