//! Canary: a mark behind every request, which tells whether a server still has what it acknowledged.
//!
//!   request 7:  rows … │ mark 6 -> 7          request 8:  rows … │ mark is 3, not 7: it lost 4 to 7
//!
//! A failover, or a restart from an older dump, takes a server back to an earlier moment: what it loses are its newest
//! writes, and a mark is the newest of each request. Where one is missing, any row written since may be missing too.
//!
//! Holds: a loss is seen by the next request that is answered, and counted once. A server that lost something keeps its old
//! mark until that was heard, so that no answer that was lost hides it. An expired or evicted mark counts as a loss: what
//! follows from it is only work.
//! Does not: see what was lost with a mark of a process that is gone: a new one writes everything anyway.

use super::resp::Request;
use redis::Value;

/// Moves the mark on and gives what it was, unless it is older than it must be.
const SCRIPT: &str = "\
local have = tonumber(redis.call('HGET', KEYS[1], 'mark') or '0')
if have >= tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'mark', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return have";

/// Without a request for so long, the mark of a process that is gone is dropped.
const TTL_MS: i64 = 24 * 3_600_000;

pub(super) struct Canary {
    key: String,
    /// Number of the last request that was sent.
    sent: i64,
    /// The newest mark that the server has acknowledged; 0 for none.
    acknowledged: i64,
    pub losses: u64,
}

impl Canary {
    /// `pipeline` is its part of a key. No group has an empty name, so the key is nobody else's.
    pub fn new(pipeline: &str, instance: u64) -> Self {
        Canary { key: format!("{pipeline}::canary:{instance:016x}"), sent: 0, acknowledged: 0, losses: 0 }
    }

    /// Ends a request with one more command, the mark; its number.
    pub fn mark(&mut self, request: &mut Request) -> i64 {
        self.sent += 1;
        request.command(7);
        request.args(&["EVAL", SCRIPT, "1", &self.key]);
        request.number(self.acknowledged);
        request.number(self.sent);
        request.number(TTL_MS);
        self.sent
    }

    /// Takes the server's answer to the mark of a request. An error says nothing about what the server has.
    pub fn heard(&mut self, number: i64, answer: &Value) {
        match answer {
            Value::Int(found) if *found < self.acknowledged => {
                self.losses += 1;
                self.acknowledged = 0;
            }
            Value::Int(_) => self.acknowledged = number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server as far as its mark goes, and how many requests it answers.
    struct Server(i64);

    impl Server {
        fn request(&mut self, canary: &mut Canary, answered: bool) {
            let number = canary.mark(&mut Request::default());
            let found = self.0;
            if found >= canary.acknowledged {
                self.0 = number;
            }
            if answered {
                canary.heard(number, &Value::Int(found));
            }
        }
    }

    #[test]
    fn answers_that_were_lost_are_no_loss() {
        let (mut server, mut canary) = (Server(0), Canary::new("ctr", 7));
        for answered in [true, true, false, false, true, false, true] {
            server.request(&mut canary, answered);
        }
        assert_eq!((canary.losses, canary.acknowledged), (0, 7));
        canary.mark(&mut Request::default());
        canary.heard(8, &Value::Nil);
        assert_eq!((canary.losses, canary.acknowledged), (0, 7), "what is no number says nothing");
    }

    #[test]
    fn a_mark_that_went_back_or_vanished_is_one_loss() {
        for left in [0, 2] {
            let (mut server, mut canary) = (Server(0), Canary::new("ctr", 7));
            for _ in 0..4 {
                server.request(&mut canary, true);
            }
            server.0 = left;
            // That the first answers after it are lost does not hide it.
            for answered in [false, false, true, true, false, true] {
                server.request(&mut canary, answered);
            }
            assert_eq!((canary.losses, canary.acknowledged), (1, 10), "{left}");
        }
    }
}
