//! Tests: the store against the oracle, whatever the order, the batches, the promises, the crashes.

use crate::event::*;
use crate::feature::StateBlock;
use crate::feature::oracle::{Seen, window_value};
use crate::feature::*;
use arrow::array::*;
use arrow::datatypes::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod exchange;

#[derive(Clone, Debug)]
struct Event {
    ts: EventTime,
    id: u128,
    entity: u8,
    /// Which of the two streams it is of.
    stream: usize,
    mask: bool,
    int: Option<i64>,
    small: Option<i32>,
    float: Option<f64>,
    text: Option<&'static str>,
}

impl Event {
    fn content(&self) -> u64 {
        (self.id as u64).wrapping_mul(77)
    }

    fn print(&self) -> Fingerprint {
        print_of(self.entity)
    }

    /// What aggregate `number` of `spec` sees of it: `None` where it does not count at all.
    fn seen_by(&self, number: usize) -> Option<Seen> {
        let (input, stream, masked) = AGGREGATES[number];
        if stream != self.stream || (masked && !self.mask) {
            return None;
        }
        let value = match input {
            In::Rows => Some(Value::Bool(true)),
            In::Int => self.int.map(Value::Int),
            In::Small => self.small.map(|small| Value::Int(small as i64)),
            In::Time => self.int.map(Value::Time),
            In::Float => self.float.map(Value::Float),
            In::Text => self.text.map(|text| Value::Text(text.into())),
        };
        Some(Seen { ts: self.ts, id: self.id, content: self.content(), value: value.unwrap_or(Value::Null) })
    }
}

fn print_of(entity: u8) -> Fingerprint {
    fingerprints(&[&(Arc::new(StringArray::from(vec![name_of(entity)])) as ArrayRef)], 1, Partitioner::Murmur2)[0]
}

fn name_of(entity: u8) -> String {
    format!("e{entity}")
}

#[derive(Clone, Copy, Debug)]
enum In {
    Rows,
    Int,
    Small,
    Time,
    Float,
    Text,
}

impl In {
    fn data_type(self) -> Option<DataType> {
        Some(match self {
            In::Rows => return None,
            In::Int => DataType::Int64,
            In::Small => DataType::Int32,
            In::Time => ColumnType::Timestamp.arrow(),
            In::Float => DataType::Float64,
            In::Text => DataType::Utf8,
        })
    }

    fn array(self, events: &[Event]) -> Option<ArrayRef> {
        let ints = events.iter().map(|event| event.int);
        Some(match self {
            In::Rows => return None,
            In::Int => Arc::new(ints.collect::<Int64Array>()),
            In::Small => Arc::new(events.iter().map(|event| event.small).collect::<Int32Array>()),
            In::Time => Arc::new(ints.collect::<TimestampMillisecondArray>().with_timezone("UTC")),
            In::Float => Arc::new(events.iter().map(|event| event.float).collect::<Float64Array>()),
            In::Text => Arc::new(events.iter().map(|event| event.text).collect::<StringArray>()),
        })
    }
}

const KINDS: [AggregateKind; 15] = [
    AggregateKind::Count,
    AggregateKind::Count,
    AggregateKind::Count,
    AggregateKind::Sum,
    AggregateKind::Sum,
    AggregateKind::Mean,
    AggregateKind::Mean,
    AggregateKind::Min,
    AggregateKind::Max,
    AggregateKind::Min,
    AggregateKind::Max,
    AggregateKind::Last,
    AggregateKind::Last,
    AggregateKind::LastK { k: 3 },
    AggregateKind::LastK { k: 2 },
];

/// (input, stream, whether it has a `where`) of the aggregates above.
const AGGREGATES: [(In, usize, bool); 15] = [
    (In::Rows, 0, false),
    (In::Rows, 1, true),
    (In::Text, 0, true),
    (In::Int, 0, false),
    (In::Float, 0, true),
    (In::Float, 1, true),
    (In::Small, 0, true),
    (In::Float, 0, false),
    (In::Time, 0, true),
    (In::Text, 0, false),
    (In::Text, 0, true),
    (In::Float, 0, false),
    (In::Text, 1, true),
    (In::Text, 0, true),
    (In::Small, 0, false),
];

/// Doubles the first output.
#[derive(Debug)]
struct Doubled;

impl Evaluate for Doubled {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let first = batch.column(0).as_primitive::<Int64Type>();
        if first.values().contains(&13) {
            return Err(ExpressionError { sql: "doubled".into(), message: "thirteen".into() });
        }
        Ok(Arc::new(first.unary::<_, Int64Type>(|value| value.wrapping_mul(2))))
    }
}

fn spec(head_ms: DurationMs, windows: &[(DurationMs, DurationMs)], aggregates: &[usize]) -> Arc<GroupSpec> {
    let mut fields = Vec::new();
    let mut uses: Vec<FeatureUse> =
        (0..2).map(|stream| FeatureUse { stream, key_set: 1, columns: vec![0], aggregates: vec![] }).collect();
    let mut specs = Vec::new();
    for (place, &number) in aggregates.iter().enumerate() {
        let (kind, (input, stream, _)) = (KINDS[number], AGGREGATES[number]);
        let mut of_this = Vec::new();
        // Not every aggregate has every window.
        for (at, &(window_ms, tail_ms)) in windows.iter().enumerate() {
            if windows.len() == 1 || (number + at) % 4 != 3 {
                let output = format!("a{number}_{at}");
                let data_type = kind.output_type(input.data_type().as_ref()).unwrap();
                fields.push(Field::new(&output, data_type, true));
                of_this.push(WindowSpec { output, window_ms, tail_ms });
            }
        }
        uses[stream].aggregates.push((place, number));
        specs.push(AggregateSpec { name: format!("a{number}"), kind, input: input.data_type(), windows: of_this });
    }
    let mut derived = Vec::new();
    if fields[0].data_type() == &DataType::Int64 {
        fields.push(Field::new("doubled", DataType::Int64, true));
        derived.push(DerivedSpec {
            name: "doubled".into(),
            expression: Expression {
                sql: "doubled".into(),
                data_type: DataType::Int64,
                nullable: true,
                columns: vec![0],
                evaluate: Arc::new(Doubled),
            },
        });
    }
    uses.retain(|usage| !usage.aggregates.is_empty());
    Arc::new(GroupSpec {
        name: "g".into(),
        entity: vec![("e".into(), ColumnType::String)],
        head_ms,
        aggregates: specs,
        uses,
        derived,
        outputs: Arc::new(Schema::new(fields)),
    })
}

fn numbers_of(spec: &GroupSpec) -> Vec<usize> {
    spec.aggregates.iter().map(|aggregate| aggregate.name[1..].parse().unwrap()).collect()
}

fn batch(events: &[Event], stream: usize) -> DecodedBatch {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(events.iter().map(|event| name_of(event.entity))));
    let schema = Schema::new(vec![Field::new("e", DataType::Utf8, false)]);
    let feature_inputs = AGGREGATES.iter().map(|&(input, _, masked)| FeatureInput {
        mask: masked.then(|| events.iter().map(|event| Some(event.mask)).collect()),
        values: input.array(events),
    });
    DecodedBatch {
        stream: stream as StreamId,
        delta: PositionDelta { partition: PartitionId { input: 0, partition: 0 }, from: 0, to: 1 },
        rows: RecordBatch::try_new(Arc::new(schema), vec![names]).unwrap(),
        event_time: events.iter().map(|event| event.ts).collect(),
        keys: vec![
            Arc::new(events.iter().map(|event| event.id).collect()),
            Arc::new(events.iter().map(|event| event.print()).collect()),
        ],
        content: events.iter().map(|event| event.content()).collect(),
        positions: None,
        feature_inputs: feature_inputs.collect(),
        rejected: vec![],
        filtered: 0,
        records: events.len() as u64,
        consumed: events.len() as u64,
    }
}

fn cell(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => Value::Int(array.as_primitive::<Int32Type>().value(row) as i64),
        DataType::Float64 => Value::Float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Timestamp(..) => Value::Time(array.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).into()),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| cell(&items, item)).collect())
        }
        other => panic!("{other}"),
    }
}

/// Bit for bit: -0.0 and NaN too.
fn row_text(values: &RecordBatch, row: usize) -> Vec<String> {
    values.columns().iter().map(|column| format!("{:?}", cell(column, row))).collect()
}

/// A whole row by the definition, of a group that misses nothing `since` then.
fn expected(
    spec: &GroupSpec,
    since: EventTime,
    events: &BTreeMap<u128, Event>,
    entity: u8,
    t: EventTime,
) -> Vec<String> {
    let mut row = Vec::new();
    let mut full = Vec::new();
    for (number, aggregate) in numbers_of(spec).into_iter().zip(&spec.aggregates) {
        let of_entity = events.values().filter(|event| event.entity == entity);
        let seen: Vec<Seen> = of_entity.filter_map(|event| event.seen_by(number)).collect();
        for window in &aggregate.windows {
            let value = window_value(aggregate.kind, window, spec.head_ms, &seen, t);
            full.push(floor_to(t - window.window_ms, window.tail_ms) >= since);
            // The oracle cannot tell the type of an empty sum.
            let is_float = matches!(AGGREGATES[number].0, In::Float);
            row.push(match value {
                Value::Int(0) if aggregate.kind == AggregateKind::Sum && is_float => Value::Float(0.0),
                value => value,
            });
        }
    }
    if !spec.derived.is_empty() {
        let Value::Int(first) = row[0] else { panic!("the first output is an integer") };
        row.push(if first == 13 { Value::Null } else { Value::Int(first.wrapping_mul(2)) });
        full.push(full[0]);
    }
    let shown = row.iter().zip(full).map(|(value, full)| if full { value } else { &Value::Null });
    shown.map(|value| format!("{value:?}")).collect()
}

/// Some lanes, what they were given, what they wrote to state, and what they published.
struct World {
    spec: Arc<GroupSpec>,
    since: EventTime,
    lanes: Vec<GroupStore>,
    applied: BTreeMap<u128, Event>,
    seen_entities: BTreeSet<u8>,
    /// With the lane that wrote each, and how many restarts there were before.
    blocks: Vec<((usize, usize), StateBlock)>,
    restarts: usize,
    watermark: EventTime,
    oldest_needed: EventTime,
    now: EventTime,
    shadow: BTreeMap<String, Vec<String>>,
}

impl World {
    fn new(spec: Arc<GroupSpec>, lanes: usize) -> World {
        World::since(EventTime::MIN, spec, lanes)
    }

    fn since(since: EventTime, spec: Arc<GroupSpec>, lanes: usize) -> World {
        World {
            lanes: (0..lanes).map(|_| GroupStore::new(7, spec.clone()).complete_since(since)).collect(),
            spec,
            since,
            applied: BTreeMap::new(),
            seen_entities: BTreeSet::new(),
            blocks: vec![],
            restarts: 0,
            watermark: -1_000,
            oldest_needed: -1_000,
            now: -1_000,
            shadow: BTreeMap::new(),
        }
    }

    fn lane(&self, print: Fingerprint) -> usize {
        lane_of(key_group(home_of(print)), self.lanes.len())
    }

    fn apply(&mut self, events: &[Event]) {
        for (number, usage) in self.spec.uses.clone().iter().enumerate() {
            let of_stream: Vec<Event> =
                events.iter().filter(|event| event.stream == usage.stream as usize).cloned().collect();
            let batch = batch(&of_stream, usage.stream as usize);
            let mut account = FeatureAccount::default();
            for lane in 0..self.lanes.len() {
                let is_ours = |row: &u32| self.lane(of_stream[*row as usize].print()) == lane;
                let rows: Vec<u32> = (0..of_stream.len() as u32).filter(is_ours).collect();
                account += self.lanes[lane].apply(number, &batch, 0, &rows);
            }
            let fresh = of_stream.iter().map(|event| event.id).collect::<BTreeSet<_>>();
            let fresh = fresh.iter().filter(|id| !self.applied.contains_key(id)).count() as u64;
            assert_eq!(account.accepted(), of_stream.len() as u64);
            let all_count = usage.aggregates.iter().any(|&(_, input)| !AGGREGATES[input].2);
            assert!(if all_count { account.applied == fresh } else { account.applied <= fresh });
        }
        for event in events {
            self.applied.insert(event.id, event.clone());
            self.seen_entities.insert(event.entity);
        }
    }

    fn advance(&mut self, watermark: EventTime, oldest_needed: EventTime) {
        self.watermark = self.watermark.max(watermark);
        self.oldest_needed = self.oldest_needed.max(oldest_needed);
        for lane in &mut self.lanes {
            lane.advance(Watermark(self.watermark), self.oldest_needed);
        }
    }

    fn check_at(&self, instants: &[EventTime]) {
        let mut questions = Vec::new();
        for &t in instants {
            questions.extend((0..9u8).map(|entity| (entity, t)));
        }
        for lane in 0..self.lanes.len() {
            let ours: Vec<_> = questions.iter().filter(|(entity, _)| self.lane(print_of(*entity)) == lane).collect();
            let prints: Vec<_> = ours.iter().map(|(entity, _)| print_of(*entity)).collect();
            let times: Vec<_> = ours.iter().map(|&&(_, t)| t).collect();
            let values = self.lanes[lane].evaluate(&prints, &times).unwrap();
            assert_eq!(values.schema(), self.spec.outputs);
            for (row, &&(entity, t)) in ours.iter().enumerate() {
                let expected = expected(&self.spec, self.since, &self.applied, entity, t);
                assert_eq!(row_text(&values, row), expected, "e{entity} at {t}");
            }
        }
    }

    /// Takes some of what is due, and leaves the rest.
    fn take(&mut self, now: EventTime, limit: usize) {
        self.now = self.now.max(now);
        for lane in &mut self.lanes {
            if let Some(taken) = lane.take_due(self.now, limit).unwrap() {
                for (row, entity) in taken.entities.iter().enumerate() {
                    self.shadow.insert(entity.clone(), row_text(&taken.values, row));
                }
            }
        }
    }

    /// Time goes on while the store is away.
    fn hold(&mut self, now: EventTime) {
        self.now = self.now.max(now);
        self.lanes.iter_mut().for_each(|lane| lane.hold_due(self.now));
    }

    /// The store loses everything.
    fn lose(&mut self) {
        self.shadow.clear();
        self.lanes.iter_mut().for_each(|lane| lane.publish_anew(&|_| true));
    }

    fn drain(&mut self, now: EventTime, limit: usize) {
        self.now = self.now.max(now);
        for lane in &mut self.lanes {
            while let Some(taken) = lane.take_due(self.now, limit).unwrap() {
                assert!(taken.entities.len() <= limit && taken.as_of == self.now && taken.group == 7);
                for (row, entity) in taken.entities.iter().enumerate() {
                    self.shadow.insert(entity.clone(), row_text(&taken.values, row));
                }
            }
            assert_eq!(lane.due(), 0);
        }
        for &entity in &self.seen_entities {
            let right = expected(&self.spec, self.since, &self.applied, entity, self.now);
            let empty = || expected(&self.spec, self.since, &BTreeMap::new(), entity, self.now);
            let published = self.shadow.get(&name_of(entity)).cloned().unwrap_or_else(empty);
            assert_eq!(published, right, "F11: e{entity} at {}", self.now);
        }
    }

    fn snapshot(&mut self, rewrite: bool) {
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let writer = (self.restarts, number);
            for block in lane.cut() {
                if block.whole {
                    let of = (writer, block.kind, block.bucket);
                    self.blocks.retain(|(writer, block)| (*writer, block.kind, block.bucket) != of);
                }
                self.blocks.push((writer, block));
            }
        }
        for kind in StateKind::ALL {
            let oldest = self.lanes.iter().map(|lane| lane.oldest_bucket_needed(kind)).min().unwrap();
            self.blocks.retain(|(_, block)| block.kind != kind || block.bucket >= oldest);
        }
        if rewrite && let Some((_, block)) = self.blocks.first() {
            let (kind, bucket) = (block.kind, block.bucket);
            self.blocks.retain(|(_, block)| (block.kind, block.bucket) != (kind, bucket));
            let whole = self
                .lanes
                .iter_mut()
                .enumerate()
                .filter_map(|(number, lane)| Some(((self.restarts, number), lane.snapshot_bucket(kind, bucket)?)));
            self.blocks.extend(whole);
        }
    }

    /// Forgets everything but the blocks.
    fn restart(&mut self, lanes: usize) {
        self.lanes = (0..lanes).map(|_| GroupStore::new(7, self.spec.clone()).complete_since(self.since)).collect();
        for (lane, store) in self.lanes.iter_mut().enumerate() {
            for (_, block) in &self.blocks {
                store.restore(&block.rows, &|print| lane_of(key_group(home_of(print)), lanes) == lane).unwrap();
            }
        }
        self.restarts += 1;
        self.advance(self.watermark, self.oldest_needed);
    }
}

fn event() -> impl Strategy<Value = Event> {
    let float = prop_oneof![
        4 => (-40i32..40).prop_map(|tenths| tenths as f64 / 10.0),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY), Just(1e300), Just(-3.3e17)],
        1 => any::<f64>(),
    ];
    let int = prop_oneof![4 => -5i64..5, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    (
        // Dense enough that tiles are merged while they still count.
        prop_oneof![2 => -60i64..600, 3 => 100i64..220],
        prop_oneof![2 => Just(0u8), 1 => 0u8..6],
        0usize..2,
        prop::bool::weighted(0.7),
        prop::option::weighted(0.8, int),
        prop::option::weighted(0.8, -3i32..3),
        prop::option::weighted(0.8, float),
        prop::option::weighted(0.8, prop::sample::select(vec!["", "a", "b", "ab", "ä", "zz"])),
    )
        .prop_map(|(ts, entity, stream, mask, int, small, float, text)| Event {
            ts,
            id: 0,
            entity,
            stream,
            mask,
            int,
            small,
            float,
            text,
        })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    (prop::collection::vec(event(), 1..70), any::<u64>()).prop_map(|(mut events, salt)| {
        for (number, event) in events.iter_mut().enumerate() {
            // In no relation to the order of time.
            event.id =
                ((number as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ (salt as u128 | 1))) & (u128::MAX >> 1);
        }
        events
    })
}

fn any_spec() -> impl Strategy<Value = Arc<GroupSpec>> {
    let windows = prop::collection::vec((1i64..160, 1i64..7), 1..4);
    let aggregates = prop_oneof![
        2 => Just((0..KINDS.len()).collect::<Vec<_>>()),
        1 => Just(vec![0, 1]),
        1 => Just(vec![13]),
        1 => prop::sample::subsequence((0..KINDS.len()).collect::<Vec<_>>(), 1..5),
    ];
    (prop::sample::select(vec![1i64, 4, 10]), windows, aggregates).prop_map(|(head, windows, aggregates)| {
        let windows: Vec<_> = windows.into_iter().map(|(window, tails)| (window, head * tails)).collect();
        spec(head, &windows, &aggregates)
    })
}

/// Small choices, one after another, round and round.
struct Dice(Vec<u16>, usize);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.1 += 1;
        self.0[self.1 % self.0.len()] as i64 * (1 + (self.1 / self.0.len()) as i64) % sides.max(1)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(400)))]

    /// Law 2, F10, F11: any order inside the promises, any batches, duplicates, promises and restarts between them.
    #[test]
    fn f10_f11_values_are_what_the_definition_says_whatever_happened_on_the_way(
        spec in any_spec(),
        events in events(),
        since in prop_oneof![2 => Just(EventTime::MIN), 1 => -60i64..600],
        jitter in 0i64..200,
        lanes in 1usize..4,
        dice in prop::collection::vec(any::<u16>(), 40..120),
    ) {
        let mut dice = Dice(dice, 0);
        let mut arrivals: Vec<(i64, Event)> = Vec::new();
        for event in &events {
            arrivals.push((event.ts + dice.roll(jitter + 1), event.clone()));
            if dice.roll(5) == 0 {
                arrivals.push((event.ts + dice.roll(jitter + 1), event.clone()));
            }
        }
        arrivals.sort_by_key(|(at, _)| *at);
        let mut world = World::since(since, spec.clone(), lanes);
        let mut place = 0;
        while place < arrivals.len() {
            let take = (1 + dice.roll(9) as usize).min(arrivals.len() - place);
            let group: Vec<Event> = arrivals[place..place + take]
                .iter()
                .map(|(_, event)| event.clone())
                .filter(|event| event.ts >= world.watermark)
                .collect();
            world.apply(&group);
            place += take;
            let rest = arrivals[place..].iter().filter(|(_, event)| !world.applied.contains_key(&event.id));
            let settled = rest.map(|(_, event)| event.ts).min().unwrap_or(700);
            match dice.roll(11) {
                0 | 1 => world.advance(settled - dice.roll(30), settled - dice.roll(60)),
                2 => world.advance(settled, settled),
                3 | 4 => {
                    world.snapshot(dice.roll(2) == 0);
                    if dice.roll(2) == 0 {
                        world.restart(1 + dice.roll(3) as usize);
                    }
                }
                5 => {
                    let newest = world.applied.values().map(|event| event.ts).max().unwrap();
                    world.drain(newest - 20 + dice.roll(60), 1 + dice.roll(4) as usize);
                }
                6 => {
                    let newest = world.applied.values().map(|event| event.ts).max().unwrap();
                    world.take(newest - 20 + dice.roll(200), 1 + dice.roll(2) as usize);
                }
                7 => {
                    let newest = world.applied.values().map(|event| event.ts).max().unwrap();
                    world.hold(newest - 20 + dice.roll(200));
                }
                8 => world.lose(),
                _ => {}
            }
            if settled >= world.oldest_needed {
                let span = settled - world.oldest_needed + 1;
                let head = spec.head_ms;
                let near = world.oldest_needed + dice.roll(head.min(span));
                world.check_at(&[world.oldest_needed, near, world.oldest_needed + dice.roll(span)]);
            }
        }
        let oldest = world.oldest_needed;
        world.check_at(&[oldest, oldest.max(300), oldest.max(650)]);
        for step in 0..12 {
            world.drain(world.now.max(550) + step * dice.roll(40), 2);
        }
        // Everything slides away, is published as empty, and is forgotten.
        for step in 0..8 {
            world.advance(2_000 + step * 1_000, 2_000 + step * 1_000);
            world.drain(2_000 + step * 1_000, 3);
        }
        for lane in &world.lanes {
            prop_assert_eq!((lane.entities(), lane.tiles(), lane.texts.len()), (0, 0, 0));
            prop_assert_eq!(lane.size, Default::default());
        }
    }

    /// F10: what happens at or after `floor(t, head)` changes nothing at `t`.
    #[test]
    fn f10_no_later_event_changes_a_value(
        spec in any_spec(),
        events in events(),
        later in events(),
        t in -50i64..600,
    ) {
        let head_end = floor_to(t, spec.head_ms);
        let mut before = World::new(spec.clone(), 1);
        let mut after = World::new(spec.clone(), 1);
        let earlier: Vec<Event> = events.iter().filter(|event| event.ts < head_end).cloned().collect();
        before.apply(&events);
        let later = later.into_iter().map(|mut event| {
            event.ts = event.ts.max(head_end);
            event.id |= 1 << 127;
            event
        });
        after.apply(&later.chain(earlier).collect::<Vec<_>>());
        let prints: Vec<_> = (0..6).map(print_of).collect();
        let (a, b) = (before.lanes[0].evaluate(&prints, &[t; 6]), after.lanes[0].evaluate(&prints, &[t; 6]));
        let (a, b) = (a.unwrap(), b.unwrap());
        for row in 0..6 {
            prop_assert_eq!(row_text(&a, row), row_text(&b, row));
        }
    }

    /// Whatever bytes a block holds, restoring it ends in a store or an error.
    #[test]
    fn a_damaged_block_is_an_error_and_no_panic(
        spec in any_spec(),
        events in events(),
        column in 0usize..40,
        word in prop_oneof![any::<i64>(), -3i64..700],
        row in 0usize..40,
    ) {
        let mut world = World::new(spec.clone(), 1);
        world.apply(&events);
        let mut store = GroupStore::new(0, spec);
        for block in world.lanes[0].snapshot() {
            let column = column % block.rows.num_columns();
            let mut columns = block.rows.columns().to_vec();
            let row = row % block.rows.num_rows();
            if let Some(array) = columns[column].as_primitive_opt::<Int64Type>() {
                let mut values = array.values().to_vec();
                values[row] = word;
                columns[column] = Arc::new(Int64Array::from(values));
            } else if let Some(array) = columns[column].as_primitive_opt::<UInt64Type>() {
                let mut values: Vec<_> = array.iter().collect();
                values[row] = (word % 5 != 0).then_some(word as u64);
                columns[column] = Arc::new(UInt64Array::from(values));
            }
            let schema = block.rows.schema();
            let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let _ = store.restore(&RecordBatch::try_new(schema, columns).unwrap(), &|_| true);
        }
        store.advance(Watermark(500), 500);
        let _ = store.take_due(500, 100).unwrap();
        store.evaluate(&[print_of(1), print_of(2)], &[500, 777]).unwrap();
    }
}

fn plain(ts: EventTime, id: u128, entity: u8) -> Event {
    Event { ts, id, entity, stream: 0, mask: true, int: Some(1), small: None, float: None, text: None }
}

#[test]
fn an_event_beyond_now_is_not_published_before_its_head_slot_has_passed() {
    let mut world = World::new(spec(10, &[(100, 10)], &[0]), 1);
    world.apply(&[plain(57, 1, 0)]);
    assert!(world.lanes[0].take_due(59, 10).unwrap().is_none());
    let taken = world.lanes[0].take_due(60, 10).unwrap().unwrap();
    assert_eq!(
        (taken.entities.as_slice(), row_text(&taken.values, 0)[0].as_str()),
        (&["e0".to_string()][..], "Int(1)")
    );
    assert!(world.lanes[0].take_due(159, 10).unwrap().is_none(), "nothing changed since");
    let taken = world.lanes[0].take_due(160, 10).unwrap().unwrap();
    assert_eq!(row_text(&taken.values, 0)[0], "Int(0)");
}

#[test]
fn a_window_is_full_from_the_first_instant_at_which_it_begins_when_everything_was_seen() {
    let spec = spec(10, &[(100, 20), (40, 10)], &[0]);
    assert_eq!(spec.full_from(EventTime::MIN), [EventTime::MIN; 3]);
    // 61 is in the slots of 60; the next ones begin at 80 and 70. What is derived waits for what it reads.
    assert_eq!(spec.full_from(61), [180, 110, 180]);
    assert_eq!(spec.full_from(60), [160, 100, 160]);
    let mut world = World::since(61, spec, 1);
    world.apply(&[plain(75, 1, 0)]);
    let shown = |at: EventTime| row_text(&world.lanes[0].evaluate(&[print_of(0)], &[at]).unwrap(), 0);
    assert_eq!(shown(109), ["Null", "Null", "Null"]);
    assert_eq!(shown(110), ["Null", "Int(1)", "Null"]);
    assert_eq!(shown(180), ["Int(0)", "Int(0)", "Int(0)"]);
    // It is published once more when it is full, although nothing happened.
    let nulls = world.lanes[0].take_due(100, 9).unwrap().unwrap();
    assert_eq!(row_text(&nulls.values, 0), ["Null", "Null", "Null"]);
    assert!(world.lanes[0].take_due(109, 9).unwrap().is_none());
    assert_eq!(row_text(&world.lanes[0].take_due(110, 9).unwrap().unwrap().values, 0)[1], "Int(1)");
}

#[test]
fn one_failing_row_of_a_derived_column_is_null_and_takes_no_other_with_it() {
    let mut world = World::new(spec(10, &[(100, 10)], &[0]), 1);
    world.apply(&(0..13).map(|id| plain(5, id, 0)).collect::<Vec<_>>());
    world.apply(&[plain(5, 99, 1)]);
    let values = world.lanes[0].evaluate(&[print_of(0), print_of(1)], &[20, 20]).unwrap();
    assert_eq!(row_text(&values, 0), ["Int(13)", "Null"]);
    assert_eq!(row_text(&values, 1), ["Int(1)", "Int(2)"]);
    assert_eq!(world.lanes[0].derived_failures(), 1);
}

#[test]
fn without_an_online_store_entities_are_forgotten_unpublished() {
    let mut store = GroupStore::new(0, spec(10, &[(100, 10)], &[0, 13])).without_online();
    for round in 0..50i64 {
        let events: Vec<Event> =
            (0..9).map(|entity| plain(round * 50, (round * 9 + entity) as u128, entity as u8)).collect();
        let rows: Vec<u32> = (0..9).collect();
        assert_eq!(store.apply(0, &batch(&events, 0), 0, &rows).applied, 9);
        store.advance(Watermark(round * 50), round * 50);
        assert!(store.tiles() <= 9 * 8, "{} tiles", store.tiles());
    }
    for step in 0..20 {
        store.advance(Watermark(5_000 + step * 100), 5_000 + step * 100);
    }
    assert_eq!((store.entities(), store.tiles(), store.due()), (0, 0, 0));
}

#[test]
fn event_times_out_of_all_reason_are_masked() {
    let mut store = GroupStore::new(0, spec(10, &[(100, 10)], &[0]));
    let events = [plain(i64::MAX, 1, 0), plain(i64::MIN, 2, 0), plain(0, 3, 0)];
    let account = store.apply(0, &batch(&events, 0), 0, &[0, 1, 2]);
    assert_eq!((account.masked, account.applied), (2, 1));
    store.evaluate(&[print_of(0); 2], &[i64::MAX, i64::MIN]).unwrap();
    store.advance(Watermark::MAX, i64::MAX);
    while store.take_due(i64::MAX, 5).unwrap().is_some() {}
    assert_eq!((store.tiles(), store.snapshot().len()), (0, 0));
}
