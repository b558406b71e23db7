//! Online: writes features to the online store, newest wins, and reads them back for serving.

mod spec;
pub use spec::*;
