//! Model: loads ONNX models from a versioned folder, checks them against the plan, and scores.

mod spec;
pub use spec::*;
