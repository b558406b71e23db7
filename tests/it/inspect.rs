//! `conjoin inspect` on real state: beside a run, after it, before it, and on state that is damaged or another's.

use crate::cli::{finish, workspace};
use crate::support::binary::{files, newest_manifest};
use serde_json::Value as Json;
use std::fs;
use std::path::Path;

fn inspect(folder: &Path) -> (i32, Json, String) {
    let (code, output, errors) = finish(folder, &["inspect", "p.yaml", "--json"]);
    (code, serde_json::from_str(&output).unwrap_or(Json::Null), errors)
}

/// Everything below a folder, with its bytes.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let all = files(folder, "");
    all.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn inspect_tells_what_a_run_has_left_and_changes_nothing() {
    let folder = workspace(2_000);
    let path = folder.path();
    let (code, view, errors) = inspect(path);
    assert_eq!((code, &view["chain"]), (0, &Json::Null), "{errors}");
    assert!(errors.contains("there is no state in out/state yet"), "{errors}");
    assert!(!path.join("out/state").exists(), "looking makes no folder");

    let (code, summary, errors) = finish(path, &["run", "p.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let summary: Json = serde_json::from_str(&summary).unwrap();
    let before = snapshot(&path.join("out"));
    let (code, view, errors) = inspect(path);
    assert_eq!(code, 0, "{errors}{view}");
    assert_eq!(snapshot(&path.join("out")), before, "inspect only reads");

    assert_eq!(view["chain"]["head"], summary["manifest"]);
    assert_eq!(view["chain"]["epoch"], 1);
    assert_eq!(view["chain"]["claims"].as_array().unwrap().len(), 1, "one start, one fence record");
    assert_eq!(view["totals"], summary["totals"]);
    assert_eq!(view["balanced"], true);
    assert_eq!(view["problems"], serde_json::json!([]));
    let streams = view["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 2);
    for stream in streams {
        assert_eq!(stream["account"], summary["streams"][stream["stream"].as_str().unwrap()]);
        assert_eq!(stream["balances"], true);
    }
    let sample = &view["samples"][0];
    assert_eq!((&sample["sample"], &sample["stream"]), (&Json::from("ctr"), &Json::from("impressions")));
    assert_eq!(sample["account"]["pending"], 0);
    assert_eq!(sample["account"]["emitted"], summary["counts"]["samples"][0]["anchor"]["emitted"]);
    assert_eq!(sample["joins"][0]["join"], "click");
    let (join, attached) = (&sample["joins"][0], &sample["joins"][0]["account"]["attached"]);
    assert_eq!(&join["delays"]["labels"], attached, "every label that attached is in the sketch, and no other");
    let decided = ["attached", "late", "out_of_window", "expired_unmatched"];
    let decided: u64 = decided.iter().map(|outcome| join["account"][*outcome].as_u64().unwrap()).sum();
    assert_eq!(join["coverage"].as_f64().unwrap(), attached.as_f64().unwrap() / decided as f64);
    let (half, longest) = (join["delays"]["p50_ms"].as_i64().unwrap(), join["delays"]["longest_ms"].as_i64().unwrap());
    // Clicks come 12 s after their impression in the median, and count within ten minutes.
    assert!((8_000..18_000).contains(&half) && (180_000..=619_000).contains(&longest), "{join}");
    assert!(sample["filed_before"].as_i64() > Some(0));
    assert_eq!(view["features"][0]["uses"][0]["balances"], true);
    for position in view["inputs"].as_array().unwrap() {
        assert_eq!(
            (&position["kind"], &position["file"]),
            (&Json::from("file"), &Json::Null),
            "files are at their end"
        );
    }
    // The run is short: every manifest that named a file is still kept, and every published file is named.
    let named = view["files"]["named"].as_array().unwrap().iter();
    let named: Vec<&Json> = named.filter(|file| file["sink"] == "samples.ctr").collect();
    let published = files(&path.join("out/samples"), ".parquet");
    assert_eq!(named.len(), published.len());
    let rows: u64 = named.iter().map(|file| file["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, sample["account"]["emitted"].as_u64().unwrap());
    let on_disk: u64 = files(&path.join("out/state/state"), "").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(view["objects"]["bytes"].as_u64().unwrap() <= on_disk);
    assert!(!view["objects"]["classes"].as_array().unwrap().is_empty());

    let (code, text, errors) = finish(path, &["inspect", "p.yaml"]);
    assert_eq!(code, 0, "{errors}");
    for part in [
        "positions",
        "labels of ctr",
        "delays of the labels of ctr",
        "every account adds up",
        "feature_entries",
        "the end of its one file",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn inspect_says_whose_state_it_is_and_which_manifest_is_damaged() {
    let folder = workspace(500);
    let path = folder.path();
    assert_eq!(finish(path, &["run", "p.yaml"]).0, 0);
    let (code, _, errors) = finish(path, &["inspect", "p.yaml", "--set", "pipeline=other"]);
    assert_eq!(code, 1);
    assert!(errors.contains("the state belongs to pipeline `small`, not to `other`"), "{errors}");

    let changed = ["inspect", "p.yaml", "--json", "--set", "samples.ctr.join.click.within=11m"];
    let (code, output, errors) = finish(path, &changed);
    assert_eq!(code, 1, "a run would refuse this state: {errors}");
    let view: Json = serde_json::from_str(&output).unwrap();
    assert!(view["changed_definitions"].to_string().contains("joins.ctr is different"), "{view}");
    assert_eq!(view["samples"][0]["closed_before"], Json::Null, "buckets may be others");

    let head = newest_manifest(&path.join("out"));
    let manifest = |number: u64| path.join(format!("out/state/manifests/{number:020}.json"));
    assert!(head >= 1, "a claim and a commit");
    let older = fs::read(manifest(0)).unwrap();
    fs::write(manifest(0), &older[..older.len() / 2]).unwrap();
    let (code, view, errors) = inspect(path);
    assert_eq!(code, 1, "{errors}");
    assert!(view["chain"]["damaged"][0]["path"].as_str().unwrap().ends_with("00000.json"), "{view}");
    assert_eq!(view["balanced"], true, "the newest manifest is whole");

    let newest = fs::read(manifest(head)).unwrap();
    fs::write(manifest(head), &newest[..newest.len() - 7]).unwrap();
    let (code, _, errors) = inspect(path);
    assert_eq!(code, 1);
    let name = format!("{head:020}.json");
    assert!(errors.contains(&name) && errors.contains("is damaged") && errors.contains("--fresh"), "{errors}");
}

#[test]
fn inspect_works_beside_a_run() {
    let folder = workspace(20_000);
    let path = folder.path();
    let mut run = crate::cli::conjoin(path, &["run", "p.yaml"]);
    let mut run = run.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let (mut looks, mut last) = (0, 0);
    while run.try_wait().unwrap().is_none() {
        let (code, view, errors) = inspect(path);
        assert_eq!(code, 0, "{errors}{view}");
        if let Some(head) = view["chain"]["head"].as_u64() {
            assert!(head >= last, "the head goes back");
            (looks, last) = (looks + 1, head);
        }
    }
    assert!(run.wait().unwrap().success());
    assert!(looks > 0, "the run was over before the first look");
}
