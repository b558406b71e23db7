//! The conjoin command.

fn main() {}
