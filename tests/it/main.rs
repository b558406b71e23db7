//! Integration tests: the adapters against the real things they adapt. Run through `make test`, which starts them.

mod support;
mod model_contract;
mod model_scores;
mod online_redis;
mod serve_http;
