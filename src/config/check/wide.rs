//! Wide: the layout over which a sample's expressions are computed, and the names its columns have there and in the rows.

use super::Checker;
use super::features::GroupDraft;
use super::streams::StreamDraft;
use crate::config::sql::Scope;
use crate::config::tree::Path;
use crate::event::{ColumnType, list_of};
use crate::join::{JoinSpec, LabelSpec, Take};
use crate::sample::EMISSION_COLUMNS;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;

/// Grows column by column in the order of [`SampleSpec`](crate::sample::SampleSpec)'s wide layout.
#[derive(Default)]
pub struct Wide {
    fields: Vec<Field>,
    scope: Scope,
    /// Where the outputs of feature groups begin and end: two groups with one name were told before.
    features: std::ops::Range<usize>,
}

impl Wide {
    /// Adds a column by its name in the rows and its name in expressions.
    fn push(
        &mut self,
        c: &mut Checker<'_>,
        at: &Path,
        output: String,
        name: String,
        data_type: DataType,
        nullable: bool,
    ) {
        if let Some(known) = self.fields.iter().position(|field| *field.name() == output) {
            if !(self.features.contains(&known) && self.features.contains(&self.fields.len())) {
                let names = "join columns are written as `<join>_<column>`, feature outputs as `<aggregate>_<window>`";
                c.error(at, format!("a second column `{output}` in the rows"))
                    .expected("names that are unique in a sample")
                    .help(format!("{names}: rename one"));
            }
            // Placeholder under a name nobody can write, so that later columns keep their place.
            self.fields.push(Field::new(format!("{output} #{}", self.fields.len()), data_type.clone(), nullable));
            self.scope.push(format!("{name} #{}", self.fields.len()), data_type, nullable);
            return;
        }
        self.fields.push(Field::new(output, data_type.clone(), nullable));
        self.scope.push(name, data_type, nullable);
    }

    pub fn anchor(&mut self, c: &mut Checker<'_>, anchor: &StreamDraft, at: &Path) {
        for (column, field) in anchor.columns().iter().zip(anchor.plan.decode.schema.fields()) {
            let (output, name) = (field.name().clone(), column.name.clone());
            self.push(c, at, output, name, field.data_type().clone(), field.is_nullable());
        }
    }

    pub fn joins(&mut self, c: &mut Checker<'_>, join: &JoinSpec, streams: &[StreamDraft], path: &Path) {
        for label in &join.labels {
            let at = path.key("join").key(&label.name);
            let schema = &streams[label.stream as usize].plan.decode.schema;
            for (suffix, data_type, nullable) in label_columns(label, schema) {
                let output = match label.take {
                    Take::Any => label.name.clone(),
                    _ => format!("{}_{suffix}", label.name),
                };
                self.push(c, &at, output, format!("{}.{suffix}", label.name), data_type, nullable);
            }
        }
    }

    pub fn group(&mut self, c: &mut Checker<'_>, group: &GroupDraft, at: &Path) {
        let (first, count) = (self.fields.len(), group.spec.outputs.fields().len());
        let start = if self.features.is_empty() { first } else { self.features.start };
        self.features = start..first + count;
        for field in group.spec.outputs.fields() {
            self.push(c, at, field.name().clone(), field.name().clone(), field.data_type().clone(), true);
        }
    }

    /// What rows that leave early have beside the others; an expression may use it.
    pub fn emission(&mut self, c: &mut Checker<'_>, at: &Path) {
        let time = ColumnType::Timestamp.arrow();
        let types = [DataType::Utf8, time.clone(), time.clone(), time, DataType::Int64, DataType::Utf8];
        for (name, data_type) in EMISSION_COLUMNS.into_iter().zip(types) {
            if self.fields.iter().any(|field| field.name() == name) {
                c.error(at, format!("a column `{name}` in the rows already"))
                    .expected("no other column of that name")
                    .help("rows that leave early carry it: rename the other");
            }
            self.fields.push(Field::new(name, data_type.clone(), name == "label_ts"));
            self.scope.push(name.to_string(), data_type, name == "label_ts");
        }
    }

    pub fn computed(&mut self, c: &mut Checker<'_>, name: &str, data_type: DataType, nullable: bool, at: &Path) {
        self.push(c, at, name.into(), name.into(), data_type, nullable);
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.fields.clone()))
    }
}

/// What one join adds: the part of the name behind the join's, type, whether it may be null.
fn label_columns(label: &LabelSpec, schema: &SchemaRef) -> Vec<(String, DataType, bool)> {
    let column = |index: usize| {
        let field = schema.field(index);
        (field.name().clone(), field.data_type().clone(), true)
    };
    match label.take {
        Take::First | Take::Last => label.select.iter().map(|&index| column(index)).collect(),
        Take::All(_) => {
            let list = |(name, data_type, _)| (name, list_of(data_type), false);
            label.select.iter().map(|&index| list(column(index))).collect()
        }
        Take::Any => vec![("any".into(), DataType::Boolean, false)],
        Take::Count => vec![("count".into(), DataType::Int64, false)],
        Take::Min(index) | Take::Max(index) => vec![column(index)],
        Take::Sum(index) => {
            let (name, data_type, nullable) = column(index);
            let integer = matches!(data_type, DataType::Int32 | DataType::Int64);
            vec![(name, if integer { DataType::Int64 } else { DataType::Float64 }, nullable)]
        }
    }
}
