//! Stores: the contract that every kind of store holds, on the real ones: memory, a folder, a bucket of a real server;
//! and what the bucket does when answers are lost, late or bad.

use crate::support::s3::{self, Answer, Proxy, Request};
use conjoin::env::{
    BucketSpec, BucketStore, Created, LocalStore, MemoryStore, PART_BYTES, Renamed, Store, StoreErrorKind,
    SystemEntropy, probe,
};
use std::io::Write;
use std::time::{Duration, Instant};

fn every_store(test: impl Fn(&dyn Store)) {
    test(&MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    test(&LocalStore::open(folder.path().join("root")).unwrap());
    test(s3::store(&s3::place(&s3::endpoint(), "contract")).as_ref());
}

#[test]
fn a_path_is_created_once_and_keeps_its_first_bytes() {
    every_store(|store| {
        assert_eq!(store.create("m/0", b"first").unwrap(), Created::Yes);
        assert_eq!(store.create("m/0", b"second").unwrap(), Created::AlreadyThere);
        let mut writer = store.create_writer("m/0").unwrap();
        writer.write_all(b"third").unwrap();
        assert_eq!(writer.finish().unwrap(), Created::AlreadyThere);
        assert_eq!(store.read("m/0").unwrap(), b"first");
    });
}

#[test]
fn listings_are_sorted_and_filtered_by_prefix() {
    every_store(|store| {
        for path in ["b/2", "a/1/x", "a/10", "a/1", "ab"].iter().filter(|path| **path != "a/1") {
            store.create(path, b"x").unwrap();
        }
        let paths = |prefix: &str| store.list(prefix).unwrap().into_iter().map(|o| o.path).collect::<Vec<_>>();
        assert_eq!(paths(""), ["a/1/x", "a/10", "ab", "b/2"]);
        assert_eq!(paths("a/1"), ["a/1/x", "a/10"]);
        assert_eq!(paths("a/"), ["a/1/x", "a/10"]);
        assert_eq!(paths("a"), ["a/1/x", "a/10", "ab"]);
        assert_eq!(paths("nowhere/"), [""; 0]);
    });
}

#[test]
fn ranges_are_exact_or_an_error() {
    every_store(|store| {
        store.create("s/x", b"0123456789").unwrap();
        assert_eq!(store.read_range("s/x", 2, 3).unwrap(), b"234");
        assert_eq!(store.read_range("s/x", 10, 0).unwrap(), b"");
        for (offset, len) in [(8, 3), (11, 0), (u64::MAX, 2), (0, u64::MAX)] {
            assert_eq!(store.read_range("s/x", offset, len).unwrap_err().kind, StoreErrorKind::Truncated);
        }
        assert!(store.read_range("s/y", 0, 1).unwrap_err().is_not_found());
        assert!(store.read("s/y").unwrap_err().is_not_found());
        assert_eq!((store.size("s/x").unwrap(), store.size("s/y").unwrap()), (Some(10), None));
    });
}

#[test]
fn deleting_and_renaming_can_be_repeated() {
    every_store(|store| {
        store.create("d/.staged", b"x").unwrap();
        assert_eq!(store.rename("d/.staged", "d/final").unwrap(), Renamed::Yes);
        assert_eq!(store.rename("d/.staged", "d/final").unwrap(), Renamed::AlreadyDone);
        store.sync_folder("d").unwrap();
        assert!(store.rename("d/.other", "d/nothing").unwrap_err().is_not_found());
        store.delete("d/final").unwrap();
        store.delete("d/final").unwrap();
        assert_eq!(store.list("").unwrap(), []);
    });
}

#[test]
fn a_long_object_is_whole_or_not_there_and_a_dropped_writer_leaves_nothing() {
    every_store(|store| {
        let bytes: Vec<u8> = (0..2 * PART_BYTES + 12_345).map(|number| (number % 251) as u8).collect();
        let mut writer = store.create_writer("state/long").unwrap();
        for piece in bytes.chunks(1 << 20) {
            writer.write_all(piece).unwrap();
        }
        assert_eq!(store.list("").unwrap(), []);
        assert_eq!(writer.finish().unwrap(), Created::Yes);
        assert_eq!(store.size("state/long").unwrap(), Some(bytes.len() as u64));
        assert!(store.read("state/long").unwrap() == bytes);
        assert!(store.read_range("state/long", PART_BYTES as u64 - 7, 14).unwrap() == bytes[PART_BYTES - 7..][..14]);
        let mut second = store.create_writer("state/long").unwrap();
        second.write_all(&vec![1; PART_BYTES + 1]).unwrap();
        assert_eq!(second.finish().unwrap(), Created::AlreadyThere);
        assert!(store.read("state/long").unwrap() == bytes);
        let mut dropped = store.create_writer("state/dropped").unwrap();
        dropped.write_all(&vec![1; 2 * PART_BYTES]).unwrap();
        drop(dropped);
        assert_eq!(store.rename("state/long", "state/final").unwrap(), Renamed::Yes);
        let listed = store.list("").unwrap();
        assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["state/final"]);
        assert!(store.read("state/final").unwrap() == bytes);
    });
}

#[test]
fn of_many_who_create_one_path_at_once_one_succeeds() {
    every_store(|store| {
        for round in 0..20 {
            let path = format!("race/{round}");
            let made: Vec<bool> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..8_u8)
                    .map(|racer| (racer, &path))
                    .map(|(racer, path)| {
                        scope.spawn(move || store.create(path, &[racer; 100]).unwrap() == Created::Yes)
                    })
                    .collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).collect()
            });
            assert_eq!(made.iter().filter(|made| **made).count(), 1, "round {round}: {made:?}");
            let winner = made.iter().position(|made| *made).unwrap() as u8;
            assert_eq!(store.read(&path).unwrap(), [winner; 100]);
        }
    });
}

#[test]
fn the_server_of_the_tests_honours_conditions() {
    probe(s3::store(&s3::place(&s3::endpoint(), "probe")).as_ref(), &SystemEntropy).unwrap();
}

/// A store behind a proxy, with patience for a test.
fn spoilt(name: &str) -> (Proxy, BucketStore, BucketSpec) {
    let proxy = Proxy::start();
    let spec = s3::place(&proxy.endpoint(), name);
    let store = BucketStore::open_with(&spec, 3_000).unwrap();
    assert_eq!(store.list("").unwrap(), []); // it has answered: from now on the patience is its own
    (proxy, store, spec)
}

fn is_put(request: &Request) -> bool {
    request.method == "PUT"
}

#[test]
fn c6_a_put_whose_answer_is_lost_is_unknown_and_the_object_is_there() {
    for answer in [Answer::Lose, Answer::Instead(500), Answer::Instead(503)] {
        let (proxy, store, _) = spoilt("lost");
        let lost = proxy.spoil(1, is_put, answer);
        // The second try finds the path taken, by the first.
        let error = store.create("manifests/1.json", b"mine").unwrap_err();
        assert_eq!((error.kind, *lost.lock().unwrap()), (StoreErrorKind::Unknown, 1), "{answer:?}: {error}");
        assert_eq!(store.read("manifests/1.json").unwrap(), b"mine");
        assert_eq!(store.create("manifests/1.json", b"other").unwrap(), Created::AlreadyThere);
    }
}

#[test]
fn c6_a_writer_whose_last_answer_is_lost_knows_its_own_object() {
    for length in [1_000, PART_BYTES + 1_000] {
        let (proxy, store, _) = spoilt("writer");
        let last = |request: &Request| match request.target.contains("uploadId") {
            true => request.method == "POST",
            false => request.method == "PUT",
        };
        for answer in [Answer::Lose, Answer::Instead(500)] {
            let path = format!("state/{length}-{answer:?}").replace(['(', ')'], "");
            let mut writer = store.create_writer(&path).unwrap();
            writer.write_all(&vec![7; length]).unwrap();
            let lost = proxy.spoil(1, last, answer);
            assert_eq!(writer.finish().unwrap(), Created::Yes, "{path}");
            assert_eq!(*lost.lock().unwrap(), 1);
            assert!(store.read(&path).unwrap() == vec![7; length]);
        }
    }
}

#[test]
fn c6_a_rename_whose_answer_is_lost_is_done_once() {
    for answer in [Answer::Lose, Answer::Instead(500)] {
        for step in ["copy", "delete"] {
            let (proxy, store, _) = spoilt("rename");
            store.create("d/.staged", b"rows").unwrap();
            let lost = match step {
                "copy" => {
                    proxy.spoil(1, |request| request.method == "POST" && request.target.contains("uploadId"), answer)
                }
                _ => proxy.spoil(1, |request| request.target.ends_with("?delete"), answer),
            };
            store.rename("d/.staged", "d/rows.parquet").unwrap();
            assert_eq!(*lost.lock().unwrap(), 1, "{step} {answer:?}");
            let listed = store.list("").unwrap();
            assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["d/rows.parquet"]);
        }
    }
}

#[test]
fn a_rename_that_was_killed_between_copy_and_delete_is_finished_by_the_next() {
    let store = s3::store(&s3::place(&s3::endpoint(), "killed"));
    store.create("d/.staged", b"rows").unwrap();
    store.create("d/rows.parquet", b"rows").unwrap(); // the copy
    assert_eq!(store.rename("d/.staged", "d/rows.parquet").unwrap(), Renamed::AlreadyDone);
    assert_eq!(store.rename("d/.staged", "d/rows.parquet").unwrap(), Renamed::AlreadyDone);
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn c7_a_store_in_trouble_is_waited_for_and_given_up_in_time() {
    let (proxy, store, _) = spoilt("trouble");
    for code in [500, 503, 429] {
        let spoilt = proxy.spoil(3, is_put, Answer::Status(code));
        let path = format!("m/{code}");
        // Nobody knows what a store that says 500 has done: the caller looks.
        match store.create(&path, b"x") {
            Ok(created) => assert_eq!(created, Created::Yes),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(*spoilt.lock().unwrap(), 3);
        assert_eq!(store.read(&path).unwrap(), b"x");
    }
    proxy.rule(|_| Answer::Late(Duration::from_millis(300)));
    assert_eq!(store.create("m/late", b"x").unwrap(), Created::Yes);
    proxy.rule(|_| Answer::Status(503));
    let began = Instant::now();
    assert_eq!(store.create("m/never", b"x").unwrap_err().kind, StoreErrorKind::Unknown);
    let error = store.read("m/late").unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn wrong_credentials_and_missing_buckets_are_told_as_such() {
    let mut spec = s3::place(&s3::endpoint(), "wrong");
    spec.options.insert("secret_access_key".into(), "hunter2hunter2".into());
    let error = BucketStore::open(&spec).unwrap().create("x", b"x").unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind, StoreErrorKind::Permission, "{text}");
    assert!(text.contains("check the credentials") && !text.contains("hunter2"), "{text}");
    let missing = BucketSpec { bucket: "no-such-bucket-here".into(), ..s3::place(&s3::endpoint(), "wrong") };
    let text = BucketStore::open(&missing).unwrap().create("x", b"x").unwrap_err().to_string();
    assert!(text.contains("create the bucket first"), "{text}");
}
