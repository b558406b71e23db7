//! Raw keys of `tests:`.

use super::{AnyValue, Duration, Entries, Instant, Moment, Names, Scalar};
use crate::config::defaults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file of tests: `NAME.test.yaml` beside `NAME.yaml`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tests of a Conjoin pipeline")]
pub struct TestFile {
    /// Tests of the pipeline.
    #[schemars(required)]
    pub tests: Option<Vec<Test>>,
}

/// A test: records in, rows out. `conjoin test FILE` runs those of the file and of `NAME.test.yaml` beside `NAME.yaml`, with
/// the code that `run` has, in memory: nothing is connected, read or written. `run` passes over them. Instants (`at`, and
/// expected timestamps) are RFC 3339 or a time since `start`: `5s`, `-2s`, `1m30s`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// What it shows, as a sentence.
    pub name: String,
    /// The instant that durations count from.
    #[schemars(extend("default" = defaults::TEST_START))]
    pub start: Option<Instant>,
    /// By dimension, all rows that it has during the test; columns that are left out are null. Default: none.
    #[serde(default)]
    pub dimensions: Entries<Vec<Entries<AnyValue>>>,
    /// What happens, in the order of arrival over all streams.
    pub events: Vec<TestEvent>,
    /// Whether all inputs end after the last event, so that all that is pending closes. With `false` it stays pending.
    #[schemars(extend("default" = true))]
    pub close: Option<bool>,
    /// By sample, all rows that it gives, in any order; only the columns that are named are compared, floats up to a
    /// millionth of their value. What a sample that is not named gives is not looked at.
    #[serde(default)]
    pub samples: Entries<Vec<Entries<AnyValue>>>,
    /// By feature group, rows of an entity and outputs: as the online store has them at the end, or with `at` as a sample
    /// of that instant would see them.
    #[serde(default)]
    pub features: Entries<Vec<Entries<AnyValue>>>,
    /// All dead letters, in any order: of `stream`, `reason`, `message` and `item`, those that are named are compared.
    /// Default: there are none.
    #[serde(default)]
    pub dead_letters: Vec<Entries<AnyValue>>,
    /// What became of the rows at the end; only the counts that are named are compared.
    pub counts: Option<TestCounts>,
}

/// One thing that happens: a record of a stream, time that passes, or the end of inputs. A record is the stream's name with
/// the payload as a value: what is no text becomes JSON, a text is the payload as it came, null a record without payload. It
/// arrives in the stream's (first) topic or file, and every stream that reads from there reads it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = {
    "x-any": true,
    "x-what": "any value",
    "x-key": "<stream>",
    "description": "The payload of a record of that stream."
}))]
pub struct TestEvent {
    /// When the event happened: is put where the stream reads its `time` (a field, a header, the broker's time), as the stream
    /// writes it.
    pub at: Option<Moment>,
    /// The record's key.
    pub key: Option<Scalar>,
    /// The record's headers.
    #[serde(default)]
    pub headers: Entries<Scalar>,
    /// The broker's timestamp. Default for Kafka streams: `at`.
    pub broker_time: Option<Moment>,
    /// The partition it lies in.
    #[schemars(range(min = 0, max = 1023), extend("default" = 0))]
    pub partition: Option<u32>,
    /// Nothing comes for so long: inputs fall idle as `idle_after` says, and idle inputs let time move on.
    pub wait: Option<Duration>,
    /// Streams whose inputs have no more.
    pub end: Option<Names>,
    #[serde(flatten)]
    #[schemars(skip)]
    pub records: Entries<AnyValue>,
}

/// What became of the rows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestCounts {
    /// By stream.
    #[serde(default)]
    pub streams: Entries<StreamCounts>,
    /// By sample.
    #[serde(default)]
    pub samples: Entries<SampleCounts>,
    /// By feature group, over all streams that feed it.
    #[serde(default)]
    pub features: Entries<FeatureCounts>,
}

/// What became of the rows of a stream: consumed = accepted + filtered + dead_lettered.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamCounts {
    /// Records read.
    pub records: Option<u64>,
    /// Rows, after `explode`.
    pub consumed: Option<u64>,
    /// Turned away by `where`.
    pub filtered: Option<u64>,
    /// Could not be read.
    pub dead_lettered: Option<u64>,
    /// Went on to samples and features.
    pub accepted: Option<u64>,
}

/// What became of a sample's impressions: accepted = duplicate + conflict + late + applied,
/// applied = pending + emitted + sampled_out.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleCounts {
    /// Came before, by id.
    pub duplicate: Option<u64>,
    /// The same id with other content.
    pub conflict: Option<u64>,
    /// Came below the watermark.
    pub late: Option<u64>,
    /// Taken.
    pub applied: Option<u64>,
    /// Not closed yet.
    pub pending: Option<u64>,
    /// Rows that were written.
    pub emitted: Option<u64>,
    /// Left out by `negatives`.
    pub sampled_out: Option<u64>,
    /// By join.
    #[serde(default, skip_serializing)]
    pub labels: Entries<LabelCounts>,
}

/// What became of a join's labels: accepted = filtered + duplicate + conflict + late + applied,
/// applied = waiting + attached + corrected + out_of_window + expired_unmatched.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelCounts {
    /// Turned away by the join's `where`.
    pub filtered: Option<u64>,
    /// Came before, by id.
    pub duplicate: Option<u64>,
    /// The same id with other content.
    pub conflict: Option<u64>,
    /// Came when no impression of it can be open any more.
    pub late: Option<u64>,
    /// Taken.
    pub applied: Option<u64>,
    /// Held: its impression is pending, or may still come.
    pub waiting: Option<u64>,
    /// Left with an impression, whether or not `take` used it.
    pub attached: Option<u64>,
    /// Left as a correction of an impression.
    pub corrected: Option<u64>,
    /// Outside the window of every impression of its key.
    pub out_of_window: Option<u64>,
    /// There was no impression of its key.
    pub expired_unmatched: Option<u64>,
}

/// What became of the rows that feed a feature group: accepted = masked + duplicate + late + applied.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureCounts {
    /// Fail every `where`, or have no entity.
    pub masked: Option<u64>,
    /// Came before, by id.
    pub duplicate: Option<u64>,
    /// Came below the watermark: they enter no feature.
    pub late: Option<u64>,
    /// Taken.
    pub applied: Option<u64>,
}
