use super::*;
use std::fs;
use std::io::Write;

const NOW: Duration = Duration::ZERO;
const ID: PartitionId = PartitionId { input: 7, partition: 0 };

fn spec(pattern: &Path) -> InputSpec {
    let pattern = pattern.to_str().unwrap().to_string();
    InputSpec { name: pattern.clone(), kind: InputKind::File { pattern }, streams: vec![0], headers: false }
}

fn open(pattern: &Path, positions: &Positions, limits: FileLimits) -> Result<FileSource, SourceError> {
    FileSource::open(&[(7, &spec(pattern))], positions, limits)
}

/// Reads to the end: the lines with their positions, and the position behind every batch.
fn read_all(source: &mut FileSource, positions: &mut Positions) -> (Vec<(i64, Vec<u8>)>, Vec<i64>) {
    let (mut lines, mut stops) = (Vec::new(), Vec::new());
    loop {
        match source.poll(NOW).unwrap() {
            SourceEvent::Batch(batch) => {
                positions.apply(batch.delta).unwrap();
                stops.push(batch.delta.to);
                for record in &batch.records {
                    let payload = batch.slice(record.payload.as_ref().unwrap()).to_vec();
                    assert!(batch.delta.from <= record.position && record.position < batch.delta.to);
                    lines.push((record.position, payload));
                }
            }
            SourceEvent::Ended(ID) => return (lines, stops),
            other => panic!("{other:?}"),
        }
    }
}

fn small(records: usize, bytes: usize, record: usize) -> FileLimits {
    FileLimits { batch_records_max: records, batch_bytes_max: bytes, record_bytes_max: record }
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_chunk_size_gives_the_same_lines_and_positions() {
    let folder = tempfile::tempdir().unwrap();
    let content = b"\xef\xbb\xbf{\"a\":1}\n\n{\"b\":22}\r\n   \n{\"c\":333}\nlast without end";
    fs::write(folder.path().join("a"), content).unwrap();
    fs::write(folder.path().join("b"), b"").unwrap();
    fs::write(folder.path().join("c"), b"x\n").unwrap();
    let expected: Vec<(i64, Vec<u8>)> =
        [(0, 3, "{\"a\":1}"), (0, 12, "{\"b\":22}"), (0, 26, "{\"c\":333}"), (0, 36, "last without end"), (2, 0, "x")]
            .map(|(file, offset, line)| (file_position(file, offset), line.as_bytes().to_vec()))
            .to_vec();
    for bytes in 1..80 {
        for records in 1..5 {
            let mut positions = Positions::default();
            let mut source = open(folder.path(), &positions, small(records, bytes, 100)).unwrap();
            let (lines, _) = read_all(&mut source, &mut positions);
            assert_eq!(lines, expected, "{records} records, {bytes} bytes");
            assert_eq!(positions.next(ID), Some(file_position(3, 0)));
        }
    }
}

#[test]
fn a_run_goes_on_from_every_position_in_plain_and_packed_files() {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..40).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    fs::write(folder.path().join("1.ndjson"), &content).unwrap();
    let (front, back) = content.split_at(100);
    fs::write(folder.path().join("2.ndjson.gz"), [gz(front), gz(back)].concat()).unwrap();
    let frames = [zstd::encode_all(front, 1).unwrap(), zstd::encode_all(back, 1).unwrap()].concat();
    fs::write(folder.path().join("3.ndjson.zst"), frames).unwrap();
    let mut positions = Positions::default();
    let limits = small(3, 64, 100);
    let (all, stops) = read_all(&mut open(folder.path(), &positions, limits).unwrap(), &mut positions);
    assert_eq!(all.len(), 120);
    for file in 0..3 {
        let bytes: Vec<u8> = all[file * 40..][..40].iter().flat_map(|(_, line)| [line, &b"\n"[..]].concat()).collect();
        assert_eq!(bytes, content, "file {file}");
    }
    for stop in stops {
        let mut positions = Positions::default();
        positions.set(ID, stop);
        let (rest, _) = read_all(&mut open(folder.path(), &positions, limits).unwrap(), &mut positions);
        let expected: Vec<_> = all.iter().filter(|(position, _)| *position >= stop).cloned().collect();
        assert_eq!(rest, expected, "from {:?}", file_and_offset(stop));
    }
}

#[test]
fn a_line_above_the_limit_is_cut_and_the_next_line_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.ndjson");
    for length in [9, 10, 11, 12, 500, 200_000] {
        for end in ["\nnext\n", "\nnext", ""] {
            fs::write(&path, format!("first\n{}{end}", "y".repeat(length))).unwrap();
            let mut positions = Positions::default();
            let mut source = open(&path, &positions, small(100, 64, 10)).unwrap();
            let (lines, _) = read_all(&mut source, &mut positions);
            assert_eq!(lines[1], (file_position(0, 6), vec![b'y'; length.min(11)]), "{length} {end:?}");
            assert_eq!(lines.len(), if end.is_empty() { 2 } else { 3 });
            if let Some(next) = lines.get(2) {
                assert_eq!(next, &(file_position(0, 7 + length as u64), b"next".to_vec()));
            }
            assert_eq!(positions.next(ID), Some(file_position(1, 0)));
        }
    }
}

#[test]
fn sequences_take_turns_and_a_paused_one_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    for path in &paths {
        fs::write(path, "1\n2\n3\n").unwrap();
    }
    let specs = paths.each_ref().map(|path| spec(path));
    let inputs = [(0, &specs[0]), (1, &specs[1])];
    let mut source = FileSource::open(&inputs, &Positions::default(), small(1, 64, 10)).unwrap();
    let ids = source.partitions();
    let mut next = || match source.poll(NOW).unwrap() {
        SourceEvent::Batch(batch) => batch.delta.partition.input,
        other => panic!("{other:?}"),
    };
    assert_eq!([next(), next(), next()], [0, 1, 0]);
    source.pause(ids[0]);
    let mut next = || source.poll(NOW).unwrap();
    assert!(matches!(next(), SourceEvent::Batch(batch) if batch.delta.partition == ids[1]));
    assert!(matches!(next(), SourceEvent::Batch(batch) if batch.delta.partition == ids[1]));
    assert!(matches!(next(), SourceEvent::Ended(id) if id == ids[1]));
    assert!(matches!(next(), SourceEvent::Nothing));
    source.resume(ids[0]);
    assert!(matches!(source.poll(NOW).unwrap(), SourceEvent::Batch(_)));
    assert!(source.label(ids[0], file_position(0, 4)).ends_with("a byte 4"));
    assert!(source.label(ids[0], file_position(1, 0)).starts_with("end of "));
}

#[test]
fn files_that_are_not_as_the_positions_remember_are_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "1\n").unwrap();
    fs::write(folder.path().join("b.gz"), gz(b"1\n")).unwrap();
    let mut positions = Positions::default();
    positions.set(ID, file_position(3, 0));
    let error = open(folder.path(), &positions, FileLimits::default()).err().unwrap();
    assert!(error.to_string().contains("now there are 2") && !error.retry(), "{error}");
    for file in [0, 1] {
        positions.set(ID, file_position(file, 99));
        let mut source = open(folder.path(), &positions, FileLimits::default()).unwrap();
        let error = source.poll(NOW).unwrap_err();
        assert!(error.to_string().contains("only 2 bytes"), "{error}");
    }
    let missing = open(&folder.path().join("*.x"), &Positions::default(), FileLimits::default()).err().unwrap();
    assert!(missing.to_string().contains("no file matches"), "{missing}");
}

#[test]
fn a_packed_file_that_was_cut_off_is_an_error_and_not_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gz");
    let packed = gz("line\n".repeat(1000).as_bytes());
    fs::write(&path, &packed[..packed.len() - 8]).unwrap();
    let mut source = open(&path, &Positions::default(), FileLimits::default()).unwrap();
    let error = source.poll(NOW).unwrap_err();
    assert!(error.to_string().contains("reading failed"), "{error}");
}
