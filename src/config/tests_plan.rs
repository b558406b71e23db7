//! What plans say: numbers for names, types, layouts, defaults; overlays and hashes.

use super::*;
use crate::env::Place;
use crate::event::{ColumnType, Value};
use crate::feature::AggregateKind;
use crate::join::Take;
use crate::model::ModelInputFrom;
use crate::online::StoreKind;
use crate::sink::{Compression, TimeFolder};
use crate::source::InputKind;

const CTR: &str = include_str!("../../config/ctr.yaml");

fn env(_: &str) -> Option<String> {
    None
}

fn options<'a>(sets: &'a [String]) -> LoadOptions<'a> {
    LoadOptions { overlays: &[], sets, env: &env, cores: 3 }
}

fn loaded(texts: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, Diagnostics> {
    let texts: Vec<_> = texts.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    let sets: Vec<_> = sets.iter().map(|set| set.to_string()).collect();
    load_texts(&texts, &options(&sets))
}

fn plan(text: &str) -> Plan {
    loaded(&[("ctr.yaml", text)], &[]).unwrap_or_else(|errors| panic!("{errors}")).plan
}

fn names(schema: &arrow::datatypes::SchemaRef) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

#[test]
fn a_topic_of_several_streams_is_one_input() {
    let plan = plan(CTR);
    let inputs: Vec<_> =
        plan.inputs.iter().map(|input| (input.name.as_str(), input.streams.clone(), input.headers)).collect();
    assert_eq!(inputs, [("feed.eu", vec![0], true), ("feed.us", vec![0], true), ("events", vec![1, 2], false)]);
    let InputKind::Kafka(topic) = &plan.inputs[2].kind else { panic!("a topic") };
    assert_eq!(topic.connection.brokers, "localhost:9092");
}

#[test]
fn key_sets_are_kept_once_and_shared_with_features() {
    let plan = plan(CTR);
    let impressions = &plan.streams[0].decode;
    assert_eq!(impressions.key_sets, [vec![0, 5], vec![1], vec![5]], "key, partition_by, entity item_id");
    assert_eq!((impressions.key, impressions.id, impressions.route), (0, 0, 1));
    let clicks = &plan.streams[1].decode;
    assert_eq!(clicks.key_sets, [vec![2, 3], vec![0], vec![4], vec![3]]);
    assert_eq!((clicks.key, clicks.id, clicks.route), (0, 1, 2));
    let user = &plan.groups[0];
    assert_eq!(user.entity, [("user_id".to_string(), ColumnType::String)]);
    let uses: Vec<_> = user.uses.iter().map(|used| (used.stream, used.key_set, used.aggregates.clone())).collect();
    assert_eq!(uses, [(1, 2, vec![(0, 0), (1, 1)]), (2, 2, vec![(2, 0)])]);
    assert_eq!(plan.samples[0].sample.groups[1].key_set, 2);
    assert!(clicks.feature_inputs[2].filter.is_some() && clicks.feature_inputs[2].input.is_none());
}

#[test]
fn columns_say_where_they_come_from() {
    use crate::decode::ColumnFrom;
    let plan = plan(CTR);
    let from: Vec<_> = plan.streams[0].decode.columns.iter().map(|column| column.from.clone()).collect();
    assert_eq!(from[1], ColumnFrom::Path(vec!["user".into(), "id".into()]));
    assert_eq!(from[4], ColumnFrom::Header("x-experiment".into()));
    assert_eq!(from[5], ColumnFrom::Item(vec!["id".into()]));
    assert_eq!(from[6], ColumnFrom::Item(vec!["price".into()]), "the field named like the column, of the element");
    assert_eq!(from[7], ColumnFrom::ItemIndex);
    assert_eq!(plan.streams[0].decode.columns[3].default, Some(Value::Text("unknown".into())));
}

#[test]
fn windows_become_outputs_with_hops() {
    let plan = plan(CTR);
    let user = &plan.groups[0];
    assert_eq!(
        names(&user.outputs),
        [
            "user_clicks_10m",
            "user_clicks_1h",
            "user_clicks_24h",
            "user_last_items_24h",
            "user_spend_24h",
            "user_spend_7d"
        ]
    );
    assert_eq!(user.aggregates[1].kind, AggregateKind::LastK { k: 50 });
    let tails: Vec<_> = user.aggregates[0].windows.iter().map(|window| window.tail_ms).collect();
    assert_eq!(tails, [10_000, 60_000, 1_440_000]);
    assert_eq!(names(&plan.groups[1].outputs).last(), Some(&"item_ctr_1h"));
}

#[test]
fn the_wide_layout_is_anchor_joins_groups_computed() {
    let plan = plan(CTR);
    let SamplePlan { join, sample, parquet, .. } = &plan.samples[0];
    let wide = names(&sample.wide);
    assert_eq!(wide[8..10], ["click_at", "purchase_value"]);
    assert_eq!(wide[wide.len() - 3..], ["clicked", "click_delay_ms", "revenue"]);
    assert!(sample.wide.field(8).is_nullable());
    assert_eq!(names(&sample.schema).len(), wide.len() - 1 + 1, "experiment left out, sample_weight added");
    assert!(!names(&sample.schema).contains(&"experiment"));
    assert_eq!(names(&sample.schema).last(), Some(&"sample_weight"));
    assert_eq!(sample.select.len() + 1, sample.schema.fields().len());
    assert_eq!(sample.columns[0].expression.columns, [8]);
    assert_eq!(join.labels[1].take, Take::Sum(6));
    assert_eq!((join.longest_ms(), join.bucket_ms, join.dedup_horizon_ms), (3_600_000, 56_000, 5_000));
    assert_eq!(join.labels[0].before_ms, 2_000);
    assert_eq!(sample.serving_lag_ms, 200, "the default is the flush interval");
    let parquet = parquet.as_ref().unwrap();
    assert_eq!(parquet.folders, [TimeFolder::Date, TimeFolder::Hour]);
    assert_eq!((parquet.roll_bytes, parquet.compression), (128_000_000, Compression::Zstd { level: 3 }));
}

#[test]
fn model_inputs_are_features_or_context() {
    let plan = plan(CTR);
    let inputs = &plan.models[0].inputs;
    assert_eq!(inputs[0].from, ModelInputFrom::Context);
    assert_eq!(inputs[2].from, ModelInputFrom::Feature { group: 0, output: 1 });
    assert_eq!(inputs[5].default, Some(0.05));
    assert_eq!(plan.state.lanes, 3);
    assert!(matches!(&plan.online.store, StoreKind::Redis { connection, .. } if connection == "features"));
}

#[test]
fn every_way_to_take_labels_has_its_columns() {
    let take =
        |take: &str| CTR.replace("take: { sum: value }", take).replace("\"coalesce(purchase.value, 0.0)\"", "\"1.0\"");
    for (written, column, nullable) in [
        ("take: count", "purchase_count", false),
        ("take: any", "purchase", false),
        ("take: last, select: [value, at]", "purchase_value", true),
        ("take: { max: at }", "purchase_at", true),
        ("take: first", "purchase_at", true),
    ] {
        let plan = plan(&take(written));
        let field = plan.samples[0].sample.wide.field(9);
        assert_eq!((field.name().as_str(), field.is_nullable()), (column, nullable), "{written}");
    }
    let expressions = take("take: any").replace("\"1.0\"", "\"CASE WHEN purchase.any THEN 1.0 ELSE 0.0 END\"");
    plan(&expressions);
    plan(&take("take: count").replace("\"1.0\"", "\"purchase.count * 2\""));
}

#[test]
fn overlays_and_sets_are_laid_over_and_keep_their_place_in_messages() {
    let overlay = "state: { commit_every: 1m }\nserve: null\nstreams: { clicks: { lateness: 7s } }\n";
    let sets = ["state.path=/data/state", "state.lanes=4", "samples.ctr.guard.max_lag=1m"];
    let plan = loaded(&[("ctr.yaml", CTR), ("prod.yaml", overlay)], &sets).unwrap().plan;
    assert_eq!(plan.state.commit_every_ms, 60_000);
    assert_eq!((plan.state.path.to_string().as_str(), plan.state.lanes), ("/data/state", 4));
    assert!(plan.serve.is_none());
    assert_eq!(plan.streams[1].time.lateness_ms, 7_000);
    assert_eq!(plan.samples[0].guard.max_lag_ms, 60_000);

    let errors =
        loaded(&[("ctr.yaml", CTR), ("prod.yaml", "version: 1\nstate:\n  commit_evry: 1m\n")], &["state.lanes=many"]);
    let told = errors.unwrap_err().to_string();
    assert!(told.contains("prod.yaml:3: state.commit_evry: unknown key"), "{told}");
    assert!(told.contains("--set state.lanes=many: state.lanes: found `many`, expected a whole number"), "{told}");
    let told = loaded(&[("ctr.yaml", CTR)], &["lanes"]).unwrap_err().to_string();
    assert!(told.contains("there is no `=`"), "{told}");
}

#[test]
fn a_reference_is_typed_again_unless_text_is_wanted() {
    let env = |name: &str| match name {
        "LANES" => Some("2".to_string()),
        "NAME" => Some("2024".to_string()),
        _ => None,
    };
    let sets = ["state.lanes=${LANES}".to_string(), "pipeline=${NAME}".to_string()];
    let options = LoadOptions { overlays: &[], sets: &sets, env: &env, cores: 1 };
    let plan = load_texts(&[("ctr.yaml".into(), CTR.into())], &options).unwrap().plan;
    assert_eq!((plan.state.lanes, plan.pipeline.as_str()), (2, "2024"));
}

#[test]
fn hashes_change_with_meaning_alone() {
    let before = plan(CTR).semantics;
    let changed = |from: &str, to: &str| -> Vec<String> {
        assert!(CTR.contains(from), "{from}");
        let after = plan(&CTR.replace(from, to)).semantics;
        assert_eq!(after.len(), before.len());
        before.iter().filter(|(node, hash)| after[*node] != **hash).map(|(node, _)| node.clone()).collect()
    };
    assert_eq!(before.len(), 3 + 2 * 2 + 5);
    assert!(changed("lateness: 5s", "lateness: 6s").is_empty());
    assert!(changed("roll: { size: 128MB", "roll: { size: 64MB").is_empty());
    assert!(changed("# identity, for duplicates", "#").is_empty());
    assert_eq!(changed("within: 10m", "within: 11m"), ["joins.ctr"]);
    assert_eq!(changed("k: 50", "k: 51"), ["features.user_activity"]);
    assert_eq!(changed("NOT clicked", "clicked"), ["negatives.ctr"]);
    assert_eq!(changed("+ 20.0)", "+ 21.0)"), ["derived.item_ctr"]);
    assert_eq!(changed("flush: 200ms", "flush: 300ms"), ["samples.ctr"]);
    assert_eq!(changed("exclude: [experiment]", "exclude: [experiment, device]"), ["columns.ctr"]);
    let (user, item) = ("  user_activity:\n", "  item_ctr:\n");
    let (from, to) = (CTR.find(user).unwrap(), CTR.find(item).unwrap());
    let end = to + CTR[to..].find("\nsamples:").unwrap() + 1;
    let swapped = format!("{}{}", &CTR[to..end], &CTR[from..to]);
    assert!(changed(&CTR[from..end], &swapped).is_empty(), "state knows its nodes by name");
    assert_eq!(changed("value > 0", "value > 1"), ["streams.purchases"]);
}

#[test]
fn several_files_and_missing_files_are_told() {
    let paths = [PathBuf::from("a.yaml"), PathBuf::from("b.yaml")];
    assert!(load(&paths, &options(&[])).unwrap_err().to_string().contains("not supported yet"));
    assert!(load(&[], &options(&[])).is_err());
    let told = load(&[PathBuf::from("no/such.yaml")], &options(&[])).unwrap_err().to_string();
    assert!(told.starts_with("no/such.yaml: cannot be read"), "{told}");
}

#[test]
fn hostile_text_is_an_error_and_no_panic() {
    let deep = format!("a: {}{}", "[".repeat(2_000), "]".repeat(2_000));
    for text in ["&a [*a]", "a: &x [1]\nb: *x", "? [1]\n: 2", "\u{0}", "%YAML 9", "{", "a: !!int x", "---\n", &deep] {
        assert!(loaded(&[("x.yaml", text)], &[]).is_err());
    }
}

#[test]
fn a_bucket_takes_the_options_of_the_connection_that_holds_it_best() {
    let connections = "connections:\n  all: { bucket: { url: s3://lake, options: { region: all } } }\n  \
                       ctr: { bucket: { url: s3://lake/ctr, endpoint: \"http://127.0.0.1:1\", allow_http: true, options: { \
                       region: \"${REGION}\", virtual_hosted_style_request: false } } }\n";
    let env = |name: &str| (name == "REGION").then(|| "eu-1".to_string());
    let place = |path: &str| {
        let sets = [format!("state.path={path}"), "state.keep_orphans=1m".to_string()];
        let options = LoadOptions { overlays: &[], sets: &sets, env: &env, cores: 1 };
        let overlay = ("lake.yaml".into(), connections.into());
        load_texts(&[("ctr.yaml".into(), CTR.into()), overlay], &options).unwrap().plan.state
    };
    let Place::Bucket(ctr) = place("s3://lake/ctr/state").path else { panic!("a bucket") };
    let options: Vec<(&str, &str)> = ctr.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("allow_http", "true"),
        ("endpoint", "http://127.0.0.1:1"),
        ("region", "eu-1"),
        ("virtual_hosted_style_request", "false"),
    ];
    assert_eq!(options, expected);
    let Place::Bucket(other) = place("s3://lake/ctr2/state").path else { panic!("a bucket") };
    assert_eq!(other.options["region"], "all");
    let Place::Bucket(outside) = place("gs://lake/ctr").path else { panic!("a bucket") };
    assert!(outside.options.is_empty());
    let state = place("out/state");
    assert_eq!((state.path, state.keep_orphans_ms), ("out/state".into(), 100_000), "at least ten commits");
}

#[test]
fn a_format_is_part_of_what_a_stream_means_and_its_schema_is_not() {
    use crate::decode::{BinarySpec, PayloadSpec, SchemaSource, Wire};
    let text = |how: &str| {
        format!(
            r#"version: 1
pipeline: ctr
connections:
  main: {{ kafka: {{ brokers: "localhost:9092" }} }}
  schemas: {{ schema_registry: {{ url: "https://registry:8081/api", username: me, password: hunter2 }} }}
streams:
  events:
    kafka: {{ connection: main, topics: [events] }}
    {how}
    columns: {{ id: string, at: timestamp, name: {{ type: string, path: $.user.name, nullable: true }} }}
    time: at
    id: id
state: {{ path: state }}
"#
        )
    };
    let json = plan(&text("format: json"));
    let asked = plan(&text("format: avro\n    schema: { registry: schemas }"));
    let file = plan(&text("format: avro\n    schema: { avro: tests/data/schemas/event.avsc, wire: single_object }"));
    let proto = "format: protobuf\n    schema: { protobuf: { path: tests/data/schemas/event.proto, message: Event } }";
    let proto = plan(&text(proto));
    let meaning = |plan: &Plan| plan.semantics["streams.events"].clone();
    assert_eq!(meaning(&asked), meaning(&file));
    assert!(meaning(&json) != meaning(&file) && meaning(&proto) != meaning(&file));
    let registry = asked.streams[0].registry.as_ref().unwrap();
    assert_eq!((registry.url.as_str(), registry.password.as_deref()), ("https://registry:8081/api", Some("hunter2")));
    assert!(!format!("{:?}", asked.streams[0]).contains("hunter2"));
    assert!(file.streams[0].registry.is_none());
    let PayloadSpec::Binary(BinarySpec { source: SchemaSource::File { wire, .. }, .. }) =
        &file.streams[0].decode.payload
    else {
        panic!("a file")
    };
    assert_eq!(*wire, Wire::SingleObject);
}
