//! Defaults: what a key means when it is absent, as it would be written; the reference shows the same text.

pub const LATENESS: &str = "5s";
pub const IDLE_AFTER: &str = "30s";
pub const MAX_DRIFT: &str = "5m";
pub const MAX_FUTURE: &str = "1h";
pub const MIN_TIME: &str = "2000-01-01T00:00:00Z";
pub const EXPLODE_MAX: u32 = 500;
pub const HEAD: &str = "1s";
pub const BEFORE: &str = "0s";
pub const DEDUP_HORIZON: &str = "0s";
pub const MAX_LAG: &str = "5m";
pub const ROLL_SIZE: &str = "128MB";
pub const ROLL_AGE: &str = "5m";
pub const ZSTD_LEVEL: i32 = 3;
pub const FLUSH: &str = "200ms";
pub const PIPELINE_COMMANDS_MAX: u32 = 500;
pub const COMMIT_EVERY: &str = "10s";
pub const KEEP_ORPHANS: &str = "24h";
pub const MEMORY: &str = "1GB";
pub const SESSION_TIMEOUT: &str = "45s";
pub const REFRESH: &str = "5m";
pub const CACHE_SIZE: &str = "64MB";
pub const CACHE_TTL: &str = "10s";
pub const CACHE_MISSING_TTL: &str = "1s";
pub const LISTEN: &str = "127.0.0.1:8080";
pub const TEST_START: &str = "2026-01-01T00:00:00Z";
