use super::super::for_test::{batch, group, read_one};
use super::super::{MemoryStore, ReadRequest, StoreErrorKind, StoredRow};
use super::*;
use crate::event::Value;

/// A store that can be taken away, and that counts the rows it is shown.
struct Flaky {
    inner: MemoryStore,
    away: AtomicBool,
    /// Every so many writes fails after it was carried out in part; 0 for none.
    fails_every: u64,
    attempts: AtomicU64,
    rows_shown: AtomicU64,
}

impl OnlineStore for Flaky {
    fn write(&self, writes: &[Write<'_>]) -> Result<WriteSummary, StoreError> {
        self.ping()?;
        if self.fails_every > 0 && self.attempts.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.fails_every) {
            let first = &writes[0];
            self.inner.write(&[Write { rows: &first.rows[..1], ..*first }])?;
            return Err(StoreError::new(StoreErrorKind::Timeout, "flaky", "cut off in the middle"));
        }
        self.rows_shown.fetch_add(writes.iter().map(|write| write.rows.len() as u64).sum(), Ordering::Relaxed);
        self.inner.write(writes)
    }

    fn read(&self, requests: &[ReadRequest<'_>]) -> Result<Vec<Vec<Option<StoredRow>>>, StoreError> {
        self.inner.read(requests)
    }

    fn ping(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::Relaxed) {
            true => Err(StoreError::new(StoreErrorKind::Connection, "flaky", "taken away")),
            false => Ok(()),
        }
    }
}

fn start(away: bool, limits: WriterLimits) -> (Arc<Flaky>, OnlineWriter) {
    start_failing(away, 0, limits)
}

fn start_failing(away: bool, fails_every: u64, limits: WriterLimits) -> (Arc<Flaky>, OnlineWriter) {
    let inner = MemoryStore::new(vec![group()]).expect("the group can be stored");
    let (away, attempts, rows_shown) = (AtomicBool::new(away), AtomicU64::new(0), AtomicU64::new(0));
    let store = Arc::new(Flaky { inner, away, fails_every, attempts, rows_shown });
    let writer = OnlineWriter::start(store.clone(), limits, 7).expect("threads can be started");
    (store, writer)
}

fn fast() -> WriterLimits {
    WriterLimits { backoff_min_ms: 1, backoff_max_ms: 4, ping_every_ms: 5, ..WriterLimits::default() }
}

fn version(step: u32) -> Version {
    Version::new(0, 0, 0, step)
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn everything_sent_is_in_the_store_after_a_flush() {
    let (store, writer) = start(false, WriterLimits { write_rows_max: 2, ..fast() });
    let sender = writer.sender();
    sender.send(batch(1, &[("a", 1, None), ("b", 1, None), ("c", 1, Some(0.5))]), version(1)).expect("running");
    sender.send(batch(2, &[("b", 2, None)]), version(2)).expect("running");
    writer.flush(SOON).expect("the store is there");
    assert_eq!(read_one(&*store, "b").map(|row| (row.values[0].clone(), row.as_of)), Some((Value::Int(2), 2)));
    let stats = writer.stop(SOON).expect("nothing waits");
    assert_eq!((stats.written, stats.stale, stats.ready, stats.backlog_entities), (4, 0, true, 0));
}

#[test]
fn a_store_that_is_away_costs_one_row_per_entity_and_nothing_is_lost() {
    let (store, writer) = start(true, fast());
    let sender = writer.sender();
    for step in 0..500 {
        let rows = [("a", step as i64, None), ("b", step as i64, None)];
        sender.send(batch(step as i64, &rows), version(step)).expect("running");
    }
    let late = writer.flush(Duration::from_millis(30)).expect_err("the store is away");
    assert_eq!((late.0.backlog_entities, late.0.ready), (2, false));
    assert!(late.0.failed_attempts > 0 && late.to_string().contains("taken away"), "{late}");
    store.away.store(false, Ordering::Relaxed);
    writer.flush(SOON).expect("the store is back");
    assert_eq!(store.rows_shown.load(Ordering::Relaxed), 2, "superseded rows were never sent");
    assert_eq!(read_one(&*store, "a").map(|row| row.values[0].clone()), Some(Value::Int(499)));
    assert!(writer.stats().ready());
}

#[test]
fn rows_of_a_write_that_failed_in_the_middle_are_written_again() {
    let limits = WriterLimits { write_rows_max: 2, ..fast() };
    let (store, writer) = start_failing(false, 3, limits);
    let sender = writer.sender();
    let names: Vec<String> = (0..60).map(|number| format!("e{number}")).collect();
    for (step, names) in names.chunks(5).enumerate() {
        let rows: Vec<(&str, i64, Option<f64>)> = names.iter().map(|name| (name.as_str(), 1, None)).collect();
        sender.send(batch(0, &rows), version(step as u32)).expect("running");
        writer.flush(SOON).expect("every second attempt at the latest succeeds");
    }
    assert_eq!(store.inner.len(0), 60, "every entity is sent once, so each row lost is an entity lost");
    assert!(writer.stop(SOON).expect("nothing waits").failed_attempts >= 10);
}

#[test]
fn a_full_backlog_leaves_no_room_and_blocks_who_sends_nevertheless() {
    let limits = WriterLimits { backlog_entities_max: 3, queue_batches_max: 1, ..fast() };
    let (store, writer) = start(true, limits);
    let sender = writer.sender();
    let looker = writer.sender();
    let feeder = std::thread::spawn(move || {
        for step in 0..20 {
            let entity = format!("e{step}");
            sender.send(batch(0, &[(entity.as_str(), 1, None)]), version(step)).expect("running");
        }
    });
    while writer.stats().snapshot().backlog_entities < 3 {
        std::thread::yield_now();
    }
    while looker.room() > 0 {
        std::thread::yield_now();
    }
    assert!(!feeder.is_finished(), "20 entities do not fit in a backlog of 3");
    assert!(writer.stats().snapshot().backlog_entities <= 3);
    store.away.store(false, Ordering::Relaxed);
    feeder.join().expect("the feeder goes on");
    writer.flush(SOON).expect("the store is back");
    assert_eq!(store.inner.len(0), 20);
}

#[test]
fn a_writer_without_work_notices_that_the_store_went_and_came_back() {
    let (store, writer) = start(false, fast());
    let turned = |ready: bool| {
        for _ in 0..2000 {
            if writer.stats().ready() == ready {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        false
    };
    assert!(turned(true));
    store.away.store(true, Ordering::Relaxed);
    assert!(turned(false));
    store.away.store(false, Ordering::Relaxed);
    assert!(turned(true));
}

#[test]
fn dropping_the_writer_does_not_wait_for_a_store_that_is_away() {
    let limits = WriterLimits { backoff_min_ms: 60_000, backoff_max_ms: 60_000, ..fast() };
    let (_store, writer) = start(true, limits);
    writer.sender().send(batch(0, &[("a", 1, None)]), version(1)).expect("running");
    drop(writer);
}
