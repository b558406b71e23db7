//! Integration tests: everything that looks at the crate from outside, in one binary so that it links once. Those that
//! need a Kafka and a Redis find them started by `make test`.

// Tests wait for services that live by the real clock, and print what they measured.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

mod support;

mod cli;
mod dead_letters;
mod end_to_end;
mod faults;
mod fuzzing;
mod generated_events;
mod inspect;
mod kafka_source;
mod kill;
mod model_contract;
mod model_scores;
mod online_redis;
mod object_store;
mod oracle;
mod rank_parity;
mod serve_http;
mod simulation;
mod stores;
mod tidy;
mod verify;
