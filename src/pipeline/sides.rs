//! Sides: where the rows go that are in no sample: into files with the next commit, or to a topic by the outbox.
//!
//! Such rows are few and in no state: so a file of them ends at every cut that has any, and is named by its manifest.
//! Rows that correct others are in state until a file holds them: their files end with those of their sample.

use crate::config::{Plan, SamplePlan};
use crate::env::{Place, Store};
use crate::event::{SampleBatch, SideKind, SideRows, StagedFile};
use crate::pipeline::RunError;
use crate::pipeline::outbox::OutboxBuffers;
use crate::sink::{FileNaming, ParquetSink, ParquetSpec, SideStream, side_batch, side_schema};
use std::collections::BTreeMap;
use std::sync::Arc;

/// As manifests call a side output.
pub fn side_name(sample: &SamplePlan, kind: SideKind) -> String {
    format!("side.{}.{}", sample.sample.name, kind.name())
}

/// Files beside those of a sample.
#[derive(Clone, Copy)]
pub struct SideFiles<'p> {
    pub number: usize,
    pub sample: &'p SamplePlan,
    /// Of a side output; `None` of rows that correct others.
    pub kind: Option<SideKind>,
    pub parquet: &'p ParquetSpec,
}

impl SideFiles<'_> {
    /// As manifests call them.
    pub fn name(&self) -> String {
        match self.kind {
            Some(kind) => side_name(self.sample, kind),
            None => format!("corrections.{}", self.sample.sample.name),
        }
    }

    /// As they are called.
    pub fn stem(&self) -> String {
        let what = self.kind.map_or("corrections", SideKind::name);
        format!("{}.{what}", self.sample.sample.name)
    }
}

/// All of them.
pub fn side_files(plan: &Plan) -> Vec<SideFiles<'_>> {
    let samples = plan.samples.iter().enumerate();
    let files = samples.flat_map(|(number, sample)| {
        let side = sample.side.iter().map(|side| (Some(side.kind), side.parquet.as_ref()));
        let all = side.chain([(None, sample.corrections.as_ref())]);
        all.filter_map(move |(kind, parquet)| Some(SideFiles { number, sample, kind, parquet: parquet? }))
    });
    files.collect()
}

/// What one sink thread writes corrections to, by their samples.
pub type CorrectionSinks = BTreeMap<usize, (String, ParquetSink)>;

pub fn correction_sinks(plan: &Plan, stores: &SideStores, naming: impl Fn(&str) -> FileNaming) -> CorrectionSinks {
    let files = side_files(plan).into_iter().filter(|file| file.kind.is_none());
    let sink = |file: SideFiles<'_>| {
        let (name, naming) = (file.name(), naming(&file.stem()));
        let sink = ParquetSink::new(file.parquet, file.sample.sample.schema.clone(), naming, stores[&name].clone());
        (file.number, (name, sink))
    };
    files.map(sink).collect()
}

/// The stores of their files, by the names of the outputs.
pub type SideStores = BTreeMap<String, Arc<dyn Store>>;

/// How a place is opened.
type Open<'o> = dyn Fn(&Place) -> Result<Arc<dyn Store>, RunError> + 'o;

pub fn side_stores(plan: &Plan, open: &Open<'_>) -> Result<SideStores, RunError> {
    let files = side_files(plan).into_iter();
    files.map(|side| Ok((side.name(), open(&side.parquet.path)?))).collect()
}

/// What one sink thread has of the side outputs.
pub struct SideSinks {
    /// Of each sample, the anchor and each join.
    streams: Vec<Vec<SideStream>>,
    inputs: Vec<String>,
    files: Vec<(usize, SideKind, String, ParquetSink)>,
}

impl SideSinks {
    /// `naming` gives the names of the files with a stem. `None` where nothing is written.
    pub fn new(plan: &Plan, stores: &SideStores, naming: impl Fn(&str) -> FileNaming) -> Option<SideSinks> {
        if plan.samples.iter().all(|sample| sample.side.is_empty()) {
            return None;
        }
        let file = |side: SideFiles<'_>| {
            let (name, naming) = (side.name(), naming(&side.stem()));
            let sink = ParquetSink::new(side.parquet, side_schema(), naming, stores[&name].clone());
            Some((side.number, side.kind?, name, sink))
        };
        Some(SideSinks {
            streams: plan.samples.iter().map(|sample| streams(plan, sample)).collect(),
            inputs: plan.inputs.iter().map(|input| input.name.clone()).collect(),
            files: side_files(plan).into_iter().filter_map(file).collect(),
        })
    }

    pub fn write(
        &mut self,
        sample: u16,
        rows: &SideRows,
        outbox: Option<&mut OutboxBuffers>,
        now_ms: i64,
    ) -> Result<(), RunError> {
        let number = sample as usize;
        let stream = &self.streams[number][rows.label.map_or(0, |label| label + 1)];
        let (batch, keys) = side_batch(stream, &self.inputs, rows);
        if let Some(outbox) = outbox {
            outbox.push(number, rows.kind.part(), &keys, &batch)?;
        }
        let mine = self.files.iter_mut().filter(|(of, kind, ..)| (*of, *kind) == (number, rows.kind));
        for (.., sink) in mine {
            let impression_time = rows.event_time.clone();
            let batch = SampleBatch { sample, rows: batch.clone(), impression_time, event_id: None, bucket: 0 };
            sink.write(&batch, now_ms)?;
        }
        Ok(())
    }

    /// Everything since the last cut, by the names of the outputs.
    pub fn cut(&mut self) -> Result<Vec<(String, StagedFile)>, RunError> {
        let mut all = Vec::new();
        for (_, _, name, sink) in &mut self.files {
            all.extend(sink.finish()?.into_iter().map(|file| (name.clone(), file)));
        }
        Ok(all)
    }
}

fn streams(plan: &Plan, sample: &SamplePlan) -> Vec<SideStream> {
    let anchor = [(sample.join.anchor, None)].into_iter();
    let labels = sample.join.labels.iter().map(|label| (label.stream, Some(label.name.clone())));
    let stream = |(number, join): (u16, Option<String>)| {
        let stream = &plan.streams[number as usize];
        let columns = stream.decode.columns.iter().map(|column| column.name.clone());
        let key = stream.decode.key_sets[stream.decode.key].clone();
        SideStream { name: stream.name.clone(), join, columns: columns.collect(), key }
    };
    anchor.chain(labels).map(stream).collect()
}
