//! Fit: whether the fields of one schema can fill the declared columns, found out once per schema and not per record.
//!
//! Holds: a column that may be absent takes null or its default from a schema without its field, so an added column
//! flows through. A field that is gone without a default, or of a type that cannot be taken, is a misfit: its column is
//! refused in every row that `where` lets through, in words that name the column, the schema, what was and what is.

use crate::decode::fault::path_of;
use crate::decode::need::Need;
use crate::decode::{ColumnSpec, DecodeSpec, TimeUnitSpec};
use crate::event::ColumnType;

/// What one schema means for the columns of a stream.
#[derive(Debug)]
pub(super) struct Fit {
    /// How people call the schema.
    pub schema: String,
    /// Columns that the schema cannot fill, and why.
    pub misfits: Vec<(usize, String)>,
    /// Why there is no array to explode.
    pub array: Option<String>,
    /// Columns that may be absent and that the schema does not know.
    pub absent: Vec<usize>,
    /// The units of time that the schema itself states, per column.
    pub units: Vec<Option<TimeUnitSpec>>,
}

/// The kinds of scalar values that schemas know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Null,
    Bool,
    Whole,
    Number,
    Text,
    /// A whole number that the schema says to be a time of this unit.
    Time(TimeUnitSpec),
    /// Bytes, arrays and whatever else no column takes.
    Other,
}

impl Fit {
    pub fn new(schema: String, spec: &DecodeSpec) -> Fit {
        let units = vec![None; spec.columns.len()];
        Fit { schema, misfits: Vec::new(), array: None, absent: Vec::new(), units }
    }

    /// The schema has `is` (of the kind `scalar`) where the columns of `need` are read.
    pub fn scalar(&mut self, need: &Need, scalar: Scalar, is: &str, spec: &DecodeSpec) {
        for &column in &need.columns {
            match (&spec.columns[column], scalar) {
                (ColumnSpec { column_type: ColumnType::Timestamp, .. }, Scalar::Time(unit)) => {
                    self.units[column] = Some(unit);
                }
                (declared, scalar) if !takes(declared, scalar) => self.misfit(column, is, spec),
                _ => {}
            }
        }
        self.below(need, is, spec);
    }

    /// The schema has `is` there, which is no scalar.
    pub fn container(&mut self, need: &Need, is: &str, spec: &DecodeSpec) {
        need.columns.iter().for_each(|&column| self.misfit(column, is, spec));
        if need.array.is_some() {
            self.no_array(is, spec);
        }
    }

    /// The schema has the array `is` there, which has elements, but no value and no fields.
    pub fn array(&mut self, need: &Need, is: &str, spec: &DecodeSpec) {
        need.columns.iter().for_each(|&column| self.misfit(column, is, spec));
        need.fields.iter().for_each(|(_, field)| self.all(field, is, spec));
    }

    /// The schema has `is` there, which has no fields.
    fn below(&mut self, need: &Need, is: &str, spec: &DecodeSpec) {
        if need.array.is_some() {
            self.no_array(is, spec);
        }
        for (_, field) in &need.fields {
            self.all(field, is, spec);
        }
    }

    /// Nothing below `need` can be had from `is`.
    pub fn all(&mut self, need: &Need, is: &str, spec: &DecodeSpec) {
        need.columns.iter().for_each(|&column| self.misfit(column, is, spec));
        self.below(need, is, spec);
    }

    /// The schema has no such field.
    pub fn missing(&mut self, need: &Need, spec: &DecodeSpec) {
        for &column in &need.columns {
            let declared = &spec.columns[column];
            match declared.nullable || declared.default.is_some() {
                true => self.absent.push(column),
                false => self.misfit(column, "no such field", spec),
            }
        }
        if need.array.is_some() {
            self.no_array("no such field", spec);
        }
        for (_, field) in &need.fields {
            self.missing(field, spec);
        }
    }

    fn misfit(&mut self, column: usize, is: &str, spec: &DecodeSpec) {
        if self.misfits.iter().any(|(known, _)| *known == column) {
            return;
        }
        let declared = &spec.columns[column];
        let kind = match (declared.column_type, declared.nullable, &declared.default) {
            (ColumnType::Timestamp, _, _) => format!("timestamp, unit {}", declared.unit.name()),
            (other, false, None) => format!("{}, neither nullable nor with a default", other.name()),
            (other, _, _) => other.name().to_string(),
        };
        let (stream, name, schema) = (&spec.name, &declared.name, &self.schema);
        let path = path_of(column, spec);
        self.misfits.push((
            column,
            format!("stream {stream}, column {name} ({kind}) is read from {path}, where {schema} has {is}"),
        ));
    }

    fn no_array(&mut self, is: &str, spec: &DecodeSpec) {
        let path = spec.explode.as_ref().map_or_else(String::new, |explode| explode.path.join("."));
        let (stream, schema) = (&spec.name, &self.schema);
        self.array
            .get_or_insert_with(|| format!("stream {stream} explodes the array $.{path}, where {schema} has {is}"));
    }

    /// Joins what the branches of a union mean: a column fits if one branch fits.
    pub fn join(&mut self, branches: Vec<Fit>) {
        let Some(first) = branches.first() else { return };
        let misfits = first.misfits.iter().filter(|(column, _)| {
            branches.iter().all(|branch| branch.misfits.iter().any(|(other, _)| other == column))
        });
        self.misfits.extend(misfits.cloned());
        let absent = first.absent.iter().filter(|column| branches.iter().all(|branch| branch.absent.contains(column)));
        self.absent.extend(absent);
        if branches.iter().all(|branch| branch.array.is_some()) {
            self.array = self.array.take().or_else(|| first.array.clone());
        }
        for branch in &branches {
            for (unit, stated) in self.units.iter_mut().zip(&branch.units) {
                *unit = unit.or(*stated);
            }
        }
    }
}

/// Whether values of the kind can fill the column; ranges are looked at per value.
fn takes(column: &ColumnSpec, scalar: Scalar) -> bool {
    match (column.column_type, scalar) {
        (_, Scalar::Null) => true,
        (_, Scalar::Other) => false,
        (ColumnType::String, scalar) => scalar == Scalar::Text,
        (ColumnType::Bool, scalar) => scalar == Scalar::Bool,
        (ColumnType::Int32 | ColumnType::Int64, scalar) => matches!(scalar, Scalar::Whole | Scalar::Time(_)),
        (ColumnType::Float32 | ColumnType::Float64, scalar) => {
            matches!(scalar, Scalar::Whole | Scalar::Number | Scalar::Time(_))
        }
        (ColumnType::Timestamp, scalar) => match column.unit {
            TimeUnitSpec::Rfc3339 => scalar == Scalar::Text,
            TimeUnitSpec::Seconds => matches!(scalar, Scalar::Whole | Scalar::Number),
            TimeUnitSpec::Millis | TimeUnitSpec::Micros | TimeUnitSpec::Nanos => scalar == Scalar::Whole,
        },
    }
}
