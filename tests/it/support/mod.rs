//! Support: what the integration tests share: addresses of the services, topics and records to play with.

pub mod kafka;
