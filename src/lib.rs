//! source -> decode -> route -> lane( join + feature ) -> sample -> sink          score <- serve
//!                                 |                                   \          /
//!                              commit (manifest chain)                 online store

// vocabulary
pub mod event;
pub mod env;
pub mod telemetry;

// data plane
pub mod registry;
pub mod source;
pub mod decode;
pub mod dimension;
pub mod route;
pub mod join;
pub mod feature;
pub mod sample;
pub mod sink;
pub mod online;
pub mod model;

// control plane
pub mod commit;
pub mod cell;
pub mod config;
pub mod pipeline;
pub mod audit;

// edges
pub mod serve;
pub mod cli;
