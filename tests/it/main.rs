//! Integration tests: Conjoin against a real Kafka and a real Redis, which `make test` starts.

// Tests wait for services that live by the real clock.
#![allow(clippy::disallowed_methods)]

mod support;

mod kafka_source;
