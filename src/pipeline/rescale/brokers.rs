//! Brokers: what a rescale asks of the topics.

use crate::config::Plan;
use crate::pipeline::RunError;
use crate::pipeline::exchange::{Told, read_topic};
use crate::pipeline::rescale::shape::Extents;
use crate::source::kafka::extents;
use crate::source::{InputKind, KafkaConnection, SourceError};

pub trait Brokers {
    /// How far every topic of the plan goes.
    fn extents(&self, plan: &Plan) -> Result<Extents, SourceError>;

    /// Everything that an internal topic holds, in the order of each cell.
    fn told(
        &self,
        plan: &Plan,
        topic: &str,
        take: &mut dyn FnMut(Told) -> Result<(), RunError>,
    ) -> Result<(), RunError>;
}

/// Those that the pipeline file names.
pub struct KafkaBrokers;

impl Brokers for KafkaBrokers {
    fn extents(&self, plan: &Plan) -> Result<Extents, SourceError> {
        let mut all = Extents::new();
        for input in &plan.inputs {
            if let InputKind::Kafka(topic) = &input.kind {
                all.insert(input.name.clone(), extents(&topic.connection, &topic.topic)?);
            }
        }
        Ok(all)
    }

    fn told(
        &self,
        plan: &Plan,
        topic: &str,
        take: &mut dyn FnMut(Told) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        read_topic(plan, connection(plan)?, topic, take)
    }
}

/// The connection of the topics, which is that of the internal topic.
fn connection(plan: &Plan) -> Result<&KafkaConnection, RunError> {
    let topics = plan.inputs.iter().find_map(|input| match &input.kind {
        InputKind::Kafka(topic) => Some(&topic.connection),
        _ => None,
    });
    topics
        .ok_or_else(|| RunError::Unsupported("the pipeline reads no topic any more, but its state is a group's".into()))
}
