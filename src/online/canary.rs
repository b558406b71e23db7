//! Canary: a mark behind every request, which tells whether a server still has what it acknowledged.
//!
//!   request 7:  rows … │ HGET mark -> 6 │ HSET mark 7          request 8:  rows … │ HGET mark -> 3: it lost 4 to 7
//!
//! A failover, or a restart from an older dump, takes a server back to an earlier moment: what it loses are its newest
//! writes, and a mark is the newest of each request. Where one is missing, any row written since may be missing too.
//!
//! Holds: a loss is seen by the next request to the server, and counted once. An expired or evicted mark counts as one:
//! what follows from it is only work.
//! Does not: see what was lost with a mark of a process that is gone: a new one writes everything anyway.

use super::resp::Request;
use redis::Value;

/// Without a request for so long, the mark of a process that is gone is dropped.
const TTL_MS: i64 = 24 * 3_600_000;
const FIELD: &str = "mark";

pub(super) struct Canary {
    key: String,
    /// Number of the last request that was sent.
    sent: u64,
    /// The newest mark that the server has acknowledged; 0 for none.
    acknowledged: u64,
    pub losses: u64,
}

impl Canary {
    /// Commands that [`Canary::mark`] adds to a request.
    pub const COMMANDS: usize = 3;

    /// `prefix` is the pipeline's part of a key. No group has an empty name, so the key is nobody else's.
    pub fn new(prefix: &str, instance: u64) -> Self {
        Canary { key: format!("{prefix}::canary:{instance:016x}"), sent: 0, acknowledged: 0, losses: 0 }
    }

    /// Ends a request with the mark; its number.
    pub fn mark(&mut self, request: &mut Request) -> u64 {
        self.sent += 1;
        request.command(3);
        request.args(&["HGET", &self.key, FIELD]);
        request.command(4);
        request.args(&["HSET", &self.key, FIELD, &self.sent.to_string()]);
        request.command(3);
        request.args(&["PEXPIRE", &self.key]);
        request.number(TTL_MS);
        self.sent
    }

    /// Takes the server's answers to the mark of a request.
    pub fn heard(&mut self, number: u64, answers: &[Value]) {
        let found = match answers.first() {
            Some(Value::BulkString(text)) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            Some(Value::Nil) => Some(0),
            // An error says nothing about what the server has.
            _ => None,
        };
        if found.is_some_and(|found: u64| found < self.acknowledged) {
            self.losses += 1;
            // Until a mark is written again, each of its absences is the same loss.
            self.acknowledged = 0;
        }
        if matches!(answers.get(1), Some(Value::Int(_))) {
            self.acknowledged = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(mark: Option<u64>) -> Vec<Value> {
        let mark = mark.map_or(Value::Nil, |mark| Value::BulkString(mark.to_string().into_bytes()));
        vec![mark, Value::Int(0), Value::Int(1)]
    }

    /// A canary after the given answers, each to a request of its own.
    fn after(answers: &[Vec<Value>]) -> Canary {
        let mut canary = Canary::new("ctr", 7);
        for answer in answers {
            let number = canary.mark(&mut Request::default());
            canary.heard(number, answer);
        }
        canary
    }

    #[test]
    fn a_mark_that_is_there_or_newer_than_was_heard_is_no_loss() {
        let canary = after(&[said(None), said(Some(1)), said(Some(2))]);
        assert_eq!((canary.losses, canary.acknowledged), (0, 3));
        // The answers to the second and third never came, but the server has their marks.
        let mut canary = after(&[said(None)]);
        canary.mark(&mut Request::default());
        canary.mark(&mut Request::default());
        let number = canary.mark(&mut Request::default());
        canary.heard(number, &said(Some(3)));
        assert_eq!((canary.losses, canary.acknowledged), (0, 4));
    }

    #[test]
    fn a_mark_that_went_back_or_vanished_is_one_loss() {
        assert_eq!(after(&[said(None), said(Some(1)), said(Some(1)), said(Some(3))]).losses, 1);
        assert_eq!(after(&[said(None), said(Some(1)), said(None), said(Some(3))]).losses, 1);
    }

    #[test]
    fn a_server_that_refuses_to_write_is_found_out_once() {
        let refusal = redis::parse_redis_value(b"-READONLY no writes here\r\n").expect("an answer");
        let refused = |mark: Value| vec![mark, refusal.clone(), refusal.clone()];
        let canary = after(&[said(None), refused(Value::Nil), refused(Value::Nil), said(None), said(Some(4))]);
        assert_eq!(canary.losses, 1);
        assert_eq!(after(&[said(None), refused(refusal.clone()), said(Some(1))]).losses, 0, "an error tells nothing");
    }
}
