//! Fuzz target: see entry/files.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(init: conjoin_fuzz::begin("files"), |bytes: &[u8]| conjoin_fuzz::run("files", bytes));
