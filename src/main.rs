//! The conjoin command.

use std::ffi::c_int;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's header, which the crate gives no name.
const PURGE_DELAY: c_int = libmimalloc_sys::mi_option_use_numa_nodes - 1;
/// How long freed memory is kept for the next use, unless MIMALLOC_PURGE_DELAY says otherwise. The allocator's own second
/// has a run hold some 100 MiB that it does not use, and `state.memory` is about what it holds.
const PURGE_DELAY_MS: i64 = 100;

#[expect(unsafe_code, reason = "the allocator's options are C")]
fn main() -> ExitCode {
    // SAFETY: sets one number, in the only thread there is; values from the environment go before it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    conjoin::cli::main()
}
