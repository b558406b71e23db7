//! Fuzz target: see entry/manifest.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("manifest"), |bytes: &[u8]| conjoin_fuzz::run("manifest", bytes));
