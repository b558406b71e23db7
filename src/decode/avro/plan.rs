//! Plan: what to do with each part of a record of one schema, for the columns of one stream.

use super::shape::{AvroSchema, Shape, ShapeId};
use crate::decode::DecodeSpec;
use crate::decode::fit::Fit;
use crate::decode::need::Need;
use std::sync::Arc;

/// How a value becomes part of the tape.
#[derive(Debug)]
pub(super) enum Read {
    /// Passed over.
    Skip(ShapeId),
    /// One node.
    Scalar(ShapeId),
    /// Present, but without the parts that nobody reads.
    Opaque(ShapeId),
    /// The exploded array.
    Array(ShapeId, Box<Read>),
    /// Per field: its name where it is wanted.
    Record(Vec<(Option<String>, Read)>),
    /// Wanted keys.
    Map(ShapeId, Vec<(String, Read)>),
    Union(Vec<Read>),
}

#[derive(Debug)]
pub(in crate::decode) struct AvroPlan {
    pub(super) schema: Arc<AvroSchema>,
    pub(super) read: Read,
    /// Elements of the exploded array that are kept; more refuse the record.
    pub(super) elements_max: usize,
    pub(super) depth_max: usize,
}

impl AvroPlan {
    pub fn new(schema: Arc<AvroSchema>, need: &Need, spec: &DecodeSpec, fit: &mut Fit) -> AvroPlan {
        let read = Planner { schema: &schema, spec }.read(schema.root, need, fit);
        let elements_max = spec.explode.as_ref().map_or(0, |explode| explode.max);
        AvroPlan { schema, read, elements_max, depth_max: spec.limits.depth_max }
    }
}

struct Planner<'a> {
    schema: &'a AvroSchema,
    spec: &'a DecodeSpec,
}

impl Planner<'_> {
    /// Ends where `need` ends, however the schema refers to itself.
    fn read(&self, id: ShapeId, need: &Need, fit: &mut Fit) -> Read {
        let told = || self.schema.told(id);
        if let Some(scalar) = self.schema.scalar(id) {
            fit.scalar(need, scalar, &told(), self.spec);
            return Read::Scalar(id);
        }
        match &self.schema.shapes[id] {
            Shape::Record(_, fields) => {
                fit.container(need, &told(), self.spec);
                for (name, below) in &need.fields {
                    if !fields.iter().any(|(field, _)| field == name) {
                        fit.missing(below, self.spec);
                    }
                }
                let field = |(name, shape): &(String, ShapeId)| match need.field(name) {
                    Some(below) => (Some(name.clone()), self.read(*shape, below, fit)),
                    None => (None, Read::Skip(*shape)),
                };
                Read::Record(fields.iter().map(field).collect())
            }
            Shape::Map(value) => {
                fit.container(need, &told(), self.spec);
                let key = |(name, below): &(String, Need)| (name.clone(), self.read(*value, below, fit));
                Read::Map(*value, need.fields.iter().map(key).collect())
            }
            Shape::Union(branches) => {
                let schema = fit.schema.clone();
                let mut fits = Vec::new();
                let branch = |&branch: &ShapeId| {
                    let mut own = Fit::new(schema.clone(), self.spec);
                    let read = self.read(branch, need, &mut own);
                    // Null says nothing about what else a value may be.
                    if !matches!(self.schema.shapes[branch], Shape::Null) {
                        fits.push(own);
                    }
                    read
                };
                let reads = branches.iter().map(branch).collect();
                fit.join(fits);
                Read::Union(reads)
            }
            Shape::Array(element) => {
                fit.array(need, &told(), self.spec);
                match &need.array {
                    Some(wanted) => Read::Array(*element, Box::new(self.read(*element, wanted, fit))),
                    None => Read::Opaque(id),
                }
            }
            // Scalars were told apart above.
            _ => Read::Opaque(id),
        }
    }
}
