//! Classics: what other engines are known to get wrong, each as a case here.

use crate::cli::finish;
use std::fs;

const PIPELINE: &str = "\
version: 1
pipeline: classics
streams:
  shown:
    file: { path: 'shown/*.ndjson' }
    columns: { id: string, at: timestamp }
    time: at
    key: id
    lateness: 5s
    idle_after: 10s
  clicks:
    file: { path: 'clicks/*.ndjson' }
    columns: { event: string, id: string, at: timestamp }
    time: at
    id: event
    key: id
    lateness: 5s
    idle_after: 10s
samples:
  ctr:
    from: shown
    join: { click: { stream: clicks, within: 10m, take: count } }
    write: { parquet: { path: out } }
state: { path: state }
";

/// Runs the case through `conjoin test`.
fn holds(events: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("p.yaml"), PIPELINE).unwrap();
    let case = format!("tests:\n  - name: case\n    close: false\n    events:\n{events}{expected}");
    fs::write(folder.path().join("p.test.yaml"), &case).unwrap();
    let (code, out, errors) = finish(folder.path(), &["test", "p.yaml"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}\n{case}");
}

/// ksqlDB #9084, RisingWave #16045.
#[test]
fn a_stream_that_goes_quiet_has_emitted_everything_after_a_while() {
    holds(
        "      - { at: 0s, shown: { id: a } }\n      - { at: 1s, clicks: { event: c, id: a } }\n      - { wait: 11m }\n",
        "    samples: { ctr: [{ id: a, click_count: 1 }] }\n    counts: { samples: { ctr: { pending: 0, emitted: 1 } } }\n",
    );
}

/// Flink's interval join drops what is late by the watermark, though what it belongs to is still there.
#[test]
fn a_late_label_whose_impression_is_open_attaches() {
    holds(
        "      - { at: 0s, shown: { id: a } }\n      - { at: 5m, shown: { id: b } }\n      - { at: 5m, clicks: { event: c1, id: b } }
      - { at: 2s, clicks: { event: c2, id: a } }\n      - { wait: 20m }\n",
        "    samples: { ctr: [{ id: a, click_count: 1 }, { id: b, click_count: 1 }] }\n",
    );
}

/// RisingWave #16045: state that only the next record of the same key would free.
#[test]
fn time_alone_frees_the_state_of_a_key_that_nobody_speaks_of_any_more() {
    holds(
        "      - { at: 0s, shown: { id: a } }\n      - { at: 1s, clicks: { event: c1, id: a } }
      - { at: 1s, clicks: { event: c2, id: nobody } }\n      - { at: 1h, shown: { id: b } }\n      - { at: 1h, clicks: { event: c3, id: b } }\n",
        "    samples: { ctr: [{ id: a, click_count: 1 }] }
    counts: { samples: { ctr: { pending: 1, emitted: 1, labels: { click: { waiting: 1, attached: 1, expired_unmatched: 1 } } } } }\n",
    );
}

/// Flink's interval join gave 2,001,908 rows for 2,000,000 impressions.
#[test]
fn copies_of_impressions_and_labels_do_not_multiply_rows() {
    holds(
        "      - { at: 0s, shown: { id: a } }\n      - { at: 0s, shown: { id: a } }\n      - { at: 1s, clicks: { event: c, id: a } }
      - { at: 1s, clicks: { event: c, id: a } }\n      - { at: 0s, shown: { id: a } }\n      - { wait: 20m }\n      - { at: 0s, shown: { id: a } }\n",
        "    samples: { ctr: [{ id: a, click_count: 1 }] }\n",
    );
}
