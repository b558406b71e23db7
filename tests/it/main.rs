//! Integration tests: Conjoin against a real Kafka and a real Redis, which `make test` starts.

mod support;

mod kafka_source;
