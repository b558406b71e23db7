//! Parts: what each thread of a run has of the outlets.

use super::{OutboxBuffers, OutboxSender, OutboxWatch, Outlet, Outlets};
use crate::commit::Manifest;
use crate::config::Plan;
use crate::env::Store;
use crate::event::{BlockClass, BlockKind};
use crate::pipeline::World;
use crate::pipeline::build::outlets;
use crate::pipeline::restore::Objects;
use std::sync::Arc;

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
