//! Integration tests: everything that looks at the crate from outside, in one binary so that it links once.

mod tidy;
