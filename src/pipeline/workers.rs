//! Workers: a lane and its sink, each in a thread of its own.

use crate::cell::{Lane, LaneInput};
use crate::join::ClosedRows;
use crate::pipeline::lanes::{self, LANE_QUEUE_MAX, LaneOutlets, deliver_restored};
use crate::pipeline::sinks::{SINK_QUEUE_MAX, SinkGauge, SinkInput, SinkThread};
use crate::pipeline::{Failure, RunError};
use crossbeam_channel::{Sender, bounded};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What reaches a lane, and what its sink shows.
pub struct Worker {
    pub input: Sender<LaneInput>,
    pub gauge: Arc<SinkGauge>,
    pub threads: [JoinHandle<()>; 2],
}

/// Starts both, the lane behind the rows that `closed` again when it was restored.
pub fn start(
    failure: &Failure,
    (lane, closed): (Lane, Vec<(u16, ClosedRows)>),
    sink: SinkThread,
    outlets: impl FnOnce(Sender<SinkInput>) -> LaneOutlets,
) -> Worker {
    let (input, lane_out) = bounded(LANE_QUEUE_MAX);
    let (sink_in, sink_out) = bounded(SINK_QUEUE_MAX);
    let (number, gauge, outlets) = (sink.lane, sink.gauge.clone(), outlets(sink_in.clone()));
    let sink = failure.spawn(&format!("sink-{number}"), move || sink.run(sink_out));
    let body = move || -> Result<(), RunError> {
        match deliver_restored(closed, &sink_in) {
            true => lanes::run(number, lane, lane_out, outlets),
            false => Ok(()),
        }
    };
    let lane = failure.spawn(&format!("lane-{number}"), body);
    Worker { input, gauge, threads: [sink, lane] }
}
