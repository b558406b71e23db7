//! Integration tests: everything that looks at the crate from outside, in one binary so that it links once. Those that
//! need a Kafka and a Redis find them started by `make test`.

// Tests wait for services that live by the real clock, and print what they measured.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros)]

mod support;

mod advise;
mod brokers;
mod change;
mod classics;
mod cli;
mod config_tests;
mod corrections;
mod dead_letters;
mod dimension_stores;
mod dimensions;
mod end_to_end;
mod faults;
mod formats;
mod fuzzing;
mod generated_events;
mod group;
mod group_faults;
mod group_outage;
mod group_refusals;
mod group_storm;
mod guard;
mod inspect;
mod kafka_member;
mod kafka_source;
mod kafka_writer;
mod kill;
mod model_contract;
mod model_scores;
mod online_faults;
mod online_redis;
mod object_store;
mod oracle;
mod outbox;
mod pressure;
mod rank_parity;
mod repartition;
mod rescale;
mod serve_http;
mod side;
mod simulation;
mod spill;
mod stores;
mod tidy;
mod verify;
