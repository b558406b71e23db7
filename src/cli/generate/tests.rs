use super::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn options(out: &Path) -> GenOptions {
    GenOptions {
        out: out.to_path_buf(),
        events: GenEvents::Demo,
        users: 300,
        items: 100,
        impressions: 30_000,
        seed: 7,
        minutes: 600,
        rate: None,
        tail: None,
        start: 1_767_225_600_000,
    }
}

/// Distinct well-formed records in file order, and how many copies and malformed ones there are.
fn read(out: &Path, name: &str) -> (Vec<Value>, u64, u64) {
    let text = fs::read_to_string(out.join(name)).unwrap();
    let (mut seen, mut records, mut copies, mut malformed) = (BTreeSet::new(), Vec::new(), 0, 0);
    for line in text.lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(value) if value["ts"].is_i64() && value["request_id"].is_string() => {
                if seen.insert(line) {
                    records.push(value)
                } else {
                    copies += 1
                }
            }
            _ => malformed += 1,
        }
    }
    (records, copies, malformed)
}

fn pair(record: &Value, item: &Value) -> (String, String) {
    (record["request_id"].to_string(), item.to_string())
}

#[test]
fn truth_is_what_a_naive_join_of_the_files_finds() {
    let folder = tempfile::tempdir().unwrap();
    let summary = generate(&options(folder.path())).unwrap();
    let truth: GenSummary =
        serde_json::from_str(&fs::read_to_string(folder.path().join("truth.json")).unwrap()).unwrap();
    assert_eq!(truth, summary);
    let (slates, slate_copies, slate_malformed) = read(folder.path(), "impressions.ndjson");
    let (clicks, click_copies, click_malformed) = read(folder.path(), "clicks.ndjson");
    let (conversions, conversion_copies, conversion_malformed) = read(folder.path(), "conversions.ndjson");
    assert_eq!(
        [summary.slates, summary.clicks, summary.conversions].map(|count| count as usize),
        [slates.len(), clicks.len(), conversions.len()]
    );
    assert_eq!(
        [summary.duplicate_slates, summary.duplicate_clicks, summary.duplicate_conversions],
        [slate_copies, click_copies, conversion_copies]
    );
    assert_eq!(
        [summary.malformed_slates, summary.malformed_clicks, summary.malformed_conversions],
        [slate_malformed, click_malformed, conversion_malformed]
    );
    assert!(slate_copies > 5 && click_copies > 0 && slate_malformed >= 4 && click_malformed >= 4);
    let mut shown = BTreeMap::new();
    for slate in &slates {
        for item in slate["items"].as_array().unwrap() {
            assert!(shown.insert(pair(slate, &item["id"]), slate["ts"].as_i64().unwrap()).is_none());
        }
    }
    assert_eq!(shown.len() as u64, summary.impressions);
    assert_eq!(summary.impressions, 30_000);
    let within = |labels: &[Value], window: i64| {
        let near = |label: &&Value| label["ts"].as_i64().unwrap() - shown[&pair(label, &label["item_id"])] <= window;
        let matched: BTreeSet<_> = labels.iter().filter(near).map(|label| pair(label, &label["item_id"])).collect();
        matched.len() as u64
    };
    assert_eq!(within(&clicks, 600_000), summary.clicked_within_10m);
    assert_eq!(within(&conversions, 1_800_000), summary.converted_within_30m);
    let rate = summary.clicked_within_10m as f64 / summary.impressions as f64;
    assert!((0.03..0.3).contains(&rate) && summary.best_auc > 0.7, "{rate} {}", summary.best_auc);
    assert!(summary.converted_within_30m > 100 && summary.clicks > summary.clicked_within_10m);
}

#[test]
fn a_log_that_ends_has_nothing_after_its_end_and_its_truth_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let summary = generate(&GenOptions { tail: Some(2), ..options(folder.path()) }).unwrap();
    let (clicks, ..) = read(folder.path(), "clicks.ndjson");
    let last = clicks.iter().filter_map(|click| click["ts"].as_i64()).max().unwrap();
    assert!(last <= summary.last_impression_ts + 2 * 60_000 + 1_000, "{last}");
    let (slates, ..) = read(folder.path(), "impressions.ndjson");
    let shown: BTreeMap<String, i64> =
        slates.iter().map(|slate| (slate["request_id"].to_string(), slate["ts"].as_i64().unwrap())).collect();
    let near: BTreeSet<_> = clicks
        .iter()
        .filter(|click| click["ts"].as_i64().unwrap() - shown[&click["request_id"].to_string()] <= 600_000)
        .map(|click| pair(click, &click["item_id"]))
        .collect();
    assert_eq!(near.len() as u64, summary.clicked_within_10m);
}

#[test]
fn no_record_is_later_than_five_seconds_behind_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    generate(&options(folder.path())).unwrap();
    for name in ["impressions.ndjson", "clicks.ndjson", "conversions.ndjson"] {
        let (mut newest, mut disordered) = (i64::MIN, 0);
        for record in read(folder.path(), name).0 {
            let ts = record["ts"].as_i64().unwrap();
            assert!(ts >= newest.saturating_sub(5000), "{name} {ts} {newest}");
            disordered += (ts < newest) as u64;
            newest = newest.max(ts);
        }
        assert!(disordered > 10, "{name}");
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    for (folder, seed) in folders.iter().zip([1, 1, 2]) {
        let rate = Some(500.0);
        generate(&GenOptions { seed, rate, impressions: 3000, ..options(folder.path()) }).unwrap();
    }
    let bytes = folders.each_ref().map(|folder| fs::read(folder.path().join("impressions.ndjson")).unwrap());
    assert!(bytes[0] == bytes[1] && bytes[0] != bytes[2]);
}

#[test]
fn a_tiny_world_and_senseless_options_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = GenOptions { users: 1, items: 2, impressions: 5, ..options(folder.path()) };
    assert_eq!(generate(&tiny).unwrap().impressions, 5);
    for wrong in [GenOptions { users: 0, ..tiny.clone() }, GenOptions { rate: Some(0.0), ..tiny.clone() }] {
        assert_eq!(generate(&wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
