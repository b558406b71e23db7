//! Parts: what each thread of a run has of the outlets.

use super::{OutboxBuffers, OutboxSender, OutboxWatch, Outlet, Outlets, SAMPLE_ROWS};
use crate::commit::Manifest;
use crate::config::{KafkaOutPlan, Plan};
use crate::env::Store;
use crate::event::{BlockClass, BlockKind};
use crate::pipeline::World;
use crate::pipeline::build::outlets;
use crate::pipeline::restore::Objects;
use crate::sink::{RowFormat, message_schema, side_schema};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Avro schemas of the rows that a plan writes to topics, by topic.
pub fn topic_schemas(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    let avro = outlets(plan).into_iter().filter(|(.., to)| to.format == RowFormat::Avro);
    let schema = |(name, sample, part, to): (String, usize, u16, &KafkaOutPlan)| {
        let rows = match part {
            SAMPLE_ROWS => plan.samples[sample].sample.schema.clone(),
            _ => side_schema(),
        };
        (to.topic.clone(), message_schema(&plan.pipeline, &name, &rows))
    };
    avro.map(schema).collect()
}

pub struct OutboxParts {
    pub committer: Outlets,
    pub conductor: OutboxWatch,
    /// Of each lane.
    pub sinks: Vec<Option<OutboxBuffers>>,
    pub senders: Vec<OutboxSender>,
}

impl OutboxParts {
    /// With what the last process left.
    pub fn new(
        plan: &Plan,
        world: &World,
        state: &Arc<dyn Store>,
        (head, objects): (&Manifest, &Objects),
        writer: &str,
    ) -> OutboxParts {
        let plans = outlets(plan);
        let outlet = |(name, sample, part, _): &(String, usize, u16, _)| {
            let class = BlockClass { kind: BlockKind::Outbox, node: head.layout.samples[*sample].number, part: *part };
            Outlet { name: name.clone(), sample: *sample, class, shared: Default::default() }
        };
        let committer = Outlets::new(plans.iter().map(outlet).collect(), head, objects, world.clock.monotonic_ms());
        let lanes = plan.state.lanes;
        let buffers = |lane: usize| {
            let whose = (head.epoch, writer);
            let buffers = || OutboxBuffers::new(&committer, (lane, lanes), head.cut, whose, state.clone());
            (!plans.is_empty()).then(buffers)
        };
        let senders = committer.iter().zip(&plans).map(|(outlet, (.., to))| OutboxSender {
            outlet: outlet.clone(),
            to: (*to).clone(),
            pipeline: plan.pipeline.clone(),
            chain: head.chain,
            state: state.clone(),
            clock: world.clock.clone(),
            telemetry: world.telemetry.clone(),
        });
        OutboxParts {
            conductor: OutboxWatch::new(&committer),
            sinks: (0..lanes).map(buffers).collect(),
            senders: senders.collect(),
            committer,
        }
    }
}
