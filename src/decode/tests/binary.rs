//! Tests of the binary formats: held against what libraries encode, against JSON, and against bytes of any kind.

use super::fixture::*;
use super::world::*;
use crate::decode::*;
use crate::event::*;
use arrow::array::AsArray;
use proptest::prelude::*;
use prost_reflect::prost::Message;

/// Writes an event in one format.
type Writer = Box<dyn Fn(&Event) -> Vec<u8>>;

fn encoded(events: &[Event], encode: impl Fn(&Event) -> Vec<u8>) -> Vec<Vec<u8>> {
    events.iter().map(encode).collect()
}

fn decode_all(spec: &DecodeSpec, records: &[Vec<u8>]) -> DecodedBatch {
    decode(spec, &records.iter().map(|record| &record[..]).collect::<Vec<_>>())
}

/// The same rows, refusals and counts; messages may name other things, and the bytes are others.
fn assert_alike(binary: &DecodedBatch, json: &DecodedBatch, what: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(kinds(binary), kinds(json), "{}: {:?}", what, &binary.rejected);
    prop_assert_eq!(&binary.rows, &json.rows, "{}", what);
    prop_assert_eq!(&binary.keys, &json.keys, "{}", what);
    prop_assert_eq!((binary.filtered, binary.consumed), (json.filtered, json.consumed), "{}", what);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_a_library_encodes_becomes_what_its_json_becomes(events in events(), slate in any::<bool>()) {
        for (schema, old) in [(AVRO_OLD, true), (AVRO_NOW, false), (AVRO_WIDE, false)] {
            let json = decode_all(&stream(PayloadSpec::Json, slate), &encoded(&events, |event| json_of(event, old)));
            let avro = encoded(&events, |event| avro_of(event, schema));
            let avro = decode_all(&stream(avro_file(schema, Wire::Plain), slate), &avro);
            assert_alike(&avro, &json, schema)?;
        }
        for (schema, old) in [(PROTO_OLD, true), (PROTO_NOW, false)] {
            let json = decode_all(&stream(PayloadSpec::Json, slate), &encoded(&events, |event| json_of(event, old)));
            let message = event_message(schema);
            let proto = encoded(&events, |event| proto_of(event, &message, 0).encode_to_vec());
            let proto = decode_all(&stream(proto_file(schema, Wire::Plain), slate), &proto);
            assert_alike(&proto, &json, schema)?;
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_or_lose_count(
        events in events(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..6),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..4),
        slate in any::<bool>(),
    ) {
        let (old, now) = (event_message(PROTO_OLD), event_message(PROTO_NOW));
        let worlds: [(PayloadSpec, Writer); 5] = [
            (avro_file(AVRO_OLD, Wire::Plain), Box::new(|event| avro_of(event, AVRO_OLD))),
            (avro_file(AVRO_NOW, Wire::Plain), Box::new(|event| avro_of(event, AVRO_NOW))),
            (avro_file(AVRO_WIDE, Wire::Plain), Box::new(|event| avro_of(event, AVRO_WIDE))),
            (proto_file(PROTO_OLD, Wire::Plain), Box::new(move |event| proto_of(event, &old, 0).encode_to_vec())),
            (proto_file(PROTO_NOW, Wire::Plain), Box::new(move |event| proto_of(event, &now, 0).encode_to_vec())),
        ];
        for (payload, encode) in worlds {
            let mut records = encoded(&events, encode);
            for (at, byte, how) in &edits {
                let record = at.index(records.len());
                let record = &mut records[record];
                let place = at.index(record.len().max(1));
                match how {
                    0 => record.truncate(place),
                    1 => record.insert(place.min(record.len()), *byte),
                    _ => record.iter_mut().skip(place).take(1).for_each(|old| *old = *byte),
                }
            }
            records.extend(noise.clone());
            // The fixture counts what comes out.
            let together = decode_all(&stream(payload.clone(), slate), &records);
            let mut alone = Vec::new();
            for (record, position) in records.iter().zip(100..) {
                let decoded = decode(&stream(payload.clone(), slate), &[record]);
                alone.extend(kinds(&decoded).into_iter().map(|(_, item, kind)| (position, item, kind)));
            }
            prop_assert_eq!(kinds(&together), alone, "no record depends on its neighbours");
        }
    }
}

fn one() -> Event {
    let items = vec![("i".to_string(), Some(2.5)), ("j".to_string(), None)];
    Event { id: "a".into(), us: 1_700_000_000_123_456, kind: "x", n: Some(-7), big: None, f: 0.5, ok: true, items }
}

#[test]
fn an_added_field_flows_through_and_an_old_writer_s_rows_take_the_default() {
    let mut decoder = Decoder::new(stream(registry(BinaryFormat::Avro), true));
    let records = [framed(1, &avro_of(&one(), AVRO_OLD)), framed(2, &avro_of(&one(), AVRO_NOW))];
    let batch = raw(&[&records[0], &records[1], &records[0]]);
    assert_eq!(decoder.wants(&batch), [1, 2]);
    decoder.learn(1, &avro_schema(AVRO_OLD));
    decoder.learn(2, &avro_schema(AVRO_NOW));
    assert!(decoder.wants(&batch).is_empty());
    let decoded = decoder.decode(&batch);
    assert_eq!(decoded.rejected, []);
    let n: Vec<_> = decoded.rows.column(3).as_primitive::<arrow::datatypes::Int32Type>().iter().collect();
    assert_eq!(n, [None, None, Some(-7), Some(-7), None, None]);
    assert_eq!(decoded.event_time, [1_700_000_000_123; 6]);
    assert!(decoder.schema_news().is_empty());
}

fn registry(format: BinaryFormat) -> PayloadSpec {
    PayloadSpec::Binary(BinarySpec { format, source: SchemaSource::Registry })
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

/// The only reject of a record that was written with schema 7.
fn refused(text: &str, spec: DecodeSpec, record: &[u8]) -> (RejectKind, String) {
    let mut decoder = Decoder::new(spec);
    decoder.learn(7, &avro_schema(text));
    let decoded = decoder.decode(&raw(&[record]));
    assert_eq!((decoded.num_rows(), decoded.filtered), (0, 0));
    let [rejected] = &decoded.rejected[..] else { panic!("{:?}", decoded.rejected) };
    assert_eq!(rejected.raw, record);
    (rejected.kind, rejected.message.clone())
}

#[test]
fn a_breaking_change_is_refused_with_what_was_and_what_is() {
    let spec = || stream(registry(BinaryFormat::Avro), false);
    let gone = AVRO_OLD.replace(r#"{"name":"ok","type":"boolean"},"#, "");
    let body = &avro_of(&one(), AVRO_OLD);
    assert_eq!(
        refused(&gone, spec(), &framed(7, &remove_ok(body))),
        (
            RejectKind::IncompatibleSchema,
            "stream events, column ok (bool, neither nullable nor with a default) is read from $.ok, where schema 7 has \
             no such field"
                .to_string()
        )
    );
    let retyped = AVRO_OLD.replace(
        r#"{"name":"id","type":"string"},
    {"name":"at""#,
        r#"{"name":"id","type":["null","bytes"]},
    {"name":"at""#,
    );
    let (kind, message) = refused(&retyped, spec(), &framed(7, &[&[2], &body[..]].concat()));
    assert_eq!(kind, RejectKind::IncompatibleSchema);
    assert!(message.ends_with("is read from $.id, where schema 7 has bytes"), "{message}");
    let mut decoder = Decoder::new(spec());
    decoder.learn(7, &avro_schema(&gone));
    decoder.decode(&raw(&[&framed(7, &remove_ok(body))]));
    assert_eq!(decoder.schema_news().len(), 1);
    assert_eq!(decoder.schema_news().len(), 0, "news are told once");
}

/// The boolean is the byte before the count of items.
fn remove_ok(body: &[u8]) -> Vec<u8> {
    let at = body.len() - (1 + 2 * 2 + 1) - 1;
    [&body[..at], &body[at + 1..]].concat()
}

#[test]
fn a_foreign_schema_s_rows_are_filtered_when_where_says_so() {
    let other = r#"{"type":"record","name":"Other","fields":[
        {"name":"at","type":{"type":"record","name":"At","fields":[{"name":"kind","type":"string"}]}}]}"#;
    let mut decoder = Decoder::new(stream(registry(BinaryFormat::Avro), true));
    decoder.learn(9, &avro_schema(other));
    let decoded = decoder.decode(&raw(&[&framed(9, b"\x02y"), &framed(9, b"\x02x")]));
    assert_eq!((decoded.num_rows(), decoded.filtered), (0, 1));
    assert_eq!(kinds(&decoded), [(101, None, RejectKind::IncompatibleSchema)]);
}

#[test]
fn every_bad_record_has_its_reason() {
    let spec = || stream(registry(BinaryFormat::Avro), false);
    let body = avro_of(&one(), AVRO_OLD);
    let with = |body: &[u8]| refused(AVRO_OLD, spec(), &framed(7, body));
    assert_eq!(refused(AVRO_OLD, spec(), b"{\"id\":1}").0, RejectKind::WrongMagic);
    assert_eq!(refused(AVRO_OLD, spec(), &[0, 0, 0]).0, RejectKind::Truncated);
    let (kind, message) = refused(AVRO_OLD, spec(), &framed(8, &body));
    assert_eq!(kind, RejectKind::UnknownSchema);
    assert_eq!(message, "schema 8, with which the record was written, is not in the registry");
    assert_eq!(with(&body[..4]).0, RejectKind::Truncated);
    let (kind, message) = with(&[&body[..], b"?"].concat());
    assert_eq!(kind, RejectKind::MalformedAvro);
    assert_eq!(
        message,
        format!("this is not valid avro of its schema at byte {}: bytes are left over", body.len() + 5)
    );
    assert_eq!(with(b"\x04\xc3\x28").0, RejectKind::NotUtf8);
    assert_eq!(with(&[0xff; 12]).0, RejectKind::MalformedAvro);
    let infinite = Event { f: f32::INFINITY, ..one() };
    let (kind, message) = with(&avro_of(&infinite, AVRO_OLD));
    assert_eq!(
        (kind, message.as_str()),
        (RejectKind::OutOfRange, "$.f is the number inf, which does not fit a number (float32) for column f")
    );
    let (kind, message) = refused("{\"type\":\"record\"}", spec(), &framed(7, &body));
    assert_eq!(kind, RejectKind::IncompatibleSchema);
    assert!(message.starts_with("schema 7 cannot be read: "), "{message}");
    let mut decoder = Decoder::new(stream(registry(BinaryFormat::Protobuf), false));
    decoder.learn(7, &avro_schema(AVRO_OLD));
    let decoded = decoder.decode(&raw(&[&framed(7, b"\0")]));
    assert_eq!(
        decoded.rejected[0].message,
        "schema 7 cannot be read: it is a schema of Avro, the stream's format is protobuf"
    );
}

#[test]
fn blocks_that_state_their_size_and_claims_of_endless_nothing_are_read() {
    let schema = r#"{"type":"record","name":"R","fields":[
        {"name":"none","type":{"type":"array","items":"null"}},
        {"name":"id","type":"string"},
        {"name":"at","type":{"type":"record","name":"At","fields":[
            {"name":"ts","type":"long"},{"name":"kind","type":"string"}]}},
        {"name":"f","type":"int"},
        {"name":"ok","type":"boolean"},
        {"name":"items","type":{"type":"array","items":{"type":"record","name":"I","fields":[
            {"name":"id","type":"string"},{"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}}}
    ]}"#;
    let long = |value: i64| {
        let (mut zigzag, mut bytes) = ((value << 1) as u64 ^ (value >> 63) as u64, Vec::new());
        while zigzag >= 0x80 {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.push(zigzag as u8);
        bytes
    };
    let head = [long(i64::MAX), long(0), b"\x02a".to_vec(), long(1_700_000_000_000), b"\x02x".to_vec()].concat();
    // a block of -1 elements in 5 bytes, then one of 1
    let tail = [
        long(3),
        vec![1],
        long(-1),
        long(5),
        b"\x02i\x04\xff\x00".to_vec(),
        long(1),
        b"\x02j\x02\x64".to_vec(),
        long(0),
    ];
    let decoded = decode(&stream(avro_file(schema, Wire::Plain), true), &[&[head, tail.concat()].concat()]);
    assert_eq!(decoded.rejected, []);
    let prices: Vec<_> = decoded.rows.column(8).as_primitive::<arrow::datatypes::Float64Type>().iter().collect();
    assert_eq!(prices, [Some(-2.56), Some(1.0)]);
}

#[test]
fn too_many_elements_refuse_a_record_however_it_is_written() {
    let many = Event { items: vec![("i".to_string(), Some(1.0)); 5], ..one() };
    let message = event_message(PROTO_NOW);
    for (payload, record) in [
        (avro_file(AVRO_NOW, Wire::Plain), avro_of(&many, AVRO_NOW)),
        (proto_file(PROTO_NOW, Wire::Plain), proto_of(&many, &message, 0).encode_to_vec()),
    ] {
        let decoded = decode(&stream(payload, true), &[&record]);
        assert_eq!(kinds(&decoded), [(100, None, RejectKind::TooManyItems)]);
        assert_eq!(decoded.rejected[0].message, "$.items is an array of 5 elements, but explode allows at most 4");
    }
}

#[test]
fn a_prefix_is_passed_over_and_a_single_object_is_held_to_its_fingerprint() {
    let body = avro_of(&one(), AVRO_NOW);
    let confluent = stream(avro_file(AVRO_NOW, Wire::Confluent), false);
    assert_eq!(decode(&confluent, &[&framed(4711, &body)]).num_rows(), 1);
    let parsed = apache_avro::Schema::parse_str(AVRO_NOW).unwrap();
    let fingerprint = parsed.fingerprint::<apache_avro::rabin::Rabin>().bytes;
    let single = stream(avro_file(AVRO_NOW, Wire::SingleObject), false);
    let record = [&[0xc3, 0x01], &fingerprint[..], &body].concat();
    assert_eq!(decode(&single, &[&record]).num_rows(), 1);
    let mut other = record.clone();
    other[5] ^= 1;
    let decoded = decode(&single, &[&other, &record[1..], &record[..7], &record[..1]]);
    let kinds: Vec<_> = decoded.rejected.iter().map(|rejected| rejected.kind).collect();
    use RejectKind::*;
    assert_eq!(kinds, [UnknownSchema, WrongMagic, Truncated, Truncated]);
}

#[test]
fn a_protobuf_record_names_its_message_by_its_place() {
    let spec = stream(registry(BinaryFormat::Protobuf), true);
    let mut decoder = Decoder::new(spec.clone());
    decoder.learn(7, &proto_schema(PROTO_NOW));
    decoder.learn(8, &proto_schema(PROTO_OLD));
    let now = proto_of(&one(), &event_message(PROTO_NOW), 0).encode_to_vec();
    let old = proto_of(&one(), &event_message(PROTO_OLD), 0).encode_to_vec();
    // the second message of schema 7, the first of schema 8 in its short form and in its long one
    let records = [
        framed(7, &[&[2, 2], &now[..]].concat()),
        framed(8, &[&[0], &old[..]].concat()),
        framed(8, &[&[2, 0], &old[..]].concat()),
        framed(7, &[&[2, 8], &now[..]].concat()),
        framed(7, &[&[2][..]].concat()),
        framed(7, &[&[0x81, 0x02][..]].concat()),
    ];
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let decoded = decoder.decode(&raw(&records));
    use RejectKind::*;
    assert_eq!(
        kinds(&decoded),
        [(103, None, IncompatibleSchema), (104, None, Truncated), (105, None, MalformedProtobuf)]
    );
    assert_eq!(decoded.num_rows(), 6);
    assert_eq!(decoded.rejected[0].message, "schema 7, message [4] cannot be read: it has no such message");
}

#[test]
fn protobuf_is_read_as_its_specification_says() {
    let text = r#"
        syntax = "proto2";
        message R {
            optional string id = 1 [default = "none"];
            optional At at = 2;
            optional int64 n = 3;
            oneof which { int32 a = 4; string b = 5; }
            repeated sint32 items = 6 [packed = true];
            required uint64 big = 7;
            optional group G = 8 { optional int32 x = 1; }
            message At { optional sfixed64 ts = 1; optional Kind kind = 2; }
            enum Kind { x = 3; y = -1; }
        }"#;
    let schema = FileSchema::protobuf(&proto_schema(text), None).unwrap();
    let source = SchemaSource::File { name: "r.proto".to_string(), schema, wire: Wire::Plain };
    let mut spec = spec(vec![
        column("id", ColumnType::String, path("id")),
        column("ts", ColumnType::Timestamp, path("at.ts")),
        column("kind", ColumnType::String, path("at.kind")),
        nullable("n", ColumnType::Int32, path("n")),
        nullable("a", ColumnType::Int32, path("a")),
        nullable("b", ColumnType::String, path("b")),
        nullable("big", ColumnType::Int64, path("big")),
        column("item", ColumnType::Int32, ColumnFrom::Item(Vec::new())),
    ]);
    spec.explode = Some(ExplodeSpec { path: vec!["items".to_string()], max: 9 });
    spec.payload = PayloadSpec::Binary(BinarySpec { format: BinaryFormat::Protobuf, source });
    let ts = [&[0x09][..], &1_700_000_000_000i64.to_le_bytes()].concat();
    let record = [
        // at in two pieces, with the later n between them
        &[&[0x12, 9], &ts[..]].concat()[..],
        &[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0x12, 2, 0x10, 3],
        // the second member of the oneof ends the first
        &[0x20, 5, 0x2a, 1, b'q'],
        // items packed, single, and packed again
        &[0x32, 2, 1, 2, 0x30, 5, 0x32, 0],
        // an unknown group, and the one that is known and not read
        &[0x4b, 0x53, 0x08, 1, 0x54, 0x4c, 0x43, 0x08, 1, 0x44],
        &[0x38, 7],
    ]
    .concat();
    let decoded = decode(&spec, &[&record]);
    assert_eq!(decoded.rejected, []);
    let row = |column: usize| super::shown(&decoded, column);
    assert_eq!(
        [row(0), row(2), row(5)],
        [["none"; 3], ["x"; 3], ["q"; 3]].map(|texts| texts.map(String::from).to_vec())
    );
    assert_eq!([row(3), row(4), row(6)], [["-1"; 3], [""; 3], ["7"; 3]].map(|texts| texts.map(String::from).to_vec()));
    assert_eq!(row(7), ["-1", "1", "-3"]);
    for (bad, kind) in [
        (&[0x1a, 1, 0][..], RejectKind::MalformedProtobuf),
        (&[0x00][..], RejectKind::MalformedProtobuf),
        (&[0x44][..], RejectKind::MalformedProtobuf),
        (&[0x4b][..], RejectKind::Truncated),
        (&[0x0a, 9][..], RejectKind::Truncated),
        (&[0x0a, 1, 0xff][..], RejectKind::NotUtf8),
        (&[0x4b; 100][..], RejectKind::TooDeep),
    ] {
        let decoded = decode(&spec, &[&[&record, bad].concat()]);
        assert_eq!(kinds(&decoded), [(100, None, kind)], "{bad:?}");
    }
}

#[test]
fn what_the_schema_of_a_file_lacks_is_known_before_anything_is_read() {
    let mut spec = stream(avro_file(AVRO_OLD, Wire::Plain), true);
    spec.columns[5].from = path("at.f");
    spec.explode = Some(ExplodeSpec { path: vec!["at".to_string()], max: 4 });
    let misfits = spec.schema_misfits();
    let told: Vec<_> = misfits.iter().map(|misfit| (misfit.column, misfit.is_absent)).collect();
    assert_eq!(told, [(Some(5), false), (None, false), (Some(3), true), (Some(4), true)]);
    assert!(misfits[1].message.ends_with("explodes the array $.at, where event.avsc has the record feed.At"));
}
