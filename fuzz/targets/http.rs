//! Fuzz target: see entry/http.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("http"), |bytes: &[u8]| conjoin_fuzz::run("http", bytes));
