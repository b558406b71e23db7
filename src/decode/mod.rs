//! Decode: turns the records of a raw batch into columns of one stream, or into rejects.
//!
//! ```text
//!   bytes ─ parse ─> tape ─ walk ─> columns + faults ─ settle ─> DecodedBatch { rows, keys, …, rejected }
//!             ├ JSON: as it stands there
//!             └ Avro, Protobuf: along the schema, only what columns read
//! ```
//!
//! In: a [`RawBatch`]. Out: a [`DecodedBatch`] that is a function of the raw batch, the [`DecodeSpec`] and, where records
//! name their schema, of what the registry holds under these names; where the stream has columns of dimensions, of these.
//! Holds: consumed = accepted + filtered + rejected, in rows (F1); nothing a record contains makes it panic, recurse
//! without bound or take memory beyond the limits; a row that `where` turns away is no reject, whatever else it lacks.
//! Does not: know time, duplicates or other streams.

mod avro;
mod binary;
mod column;
mod cursor;
mod expressions;
mod fault;
mod fit;
mod json;
mod need;
mod protobuf;
mod rows;
mod settle;
mod spec;
mod timestamp;
mod trie;
pub use spec::*;

use crate::event::{DecodedBatch, Enrich, EnrichError, RawBatch, RawRecord, RegisteredSchema, RejectKind};
use binary::BinaryParser;
use expressions::FeatureInputs;
use json::JsonParser;
use rows::Rows;
use settle::{Refusal, Settle};
use std::ops::Range;

/// Decodes one stream. Each worker has its own, for the sake of the buffers it keeps.
pub struct Decoder {
    spec: DecodeSpec,
    features: FeatureInputs,
    parser: Parser,
    rows: Rows,
}

/// What makes a tape of a record.
enum Parser {
    Json(JsonParser),
    Binary(BinaryParser),
}

impl Decoder {
    /// Panics when `spec` contradicts itself, which the config check rules out.
    pub fn new(spec: DecodeSpec) -> Self {
        assert_eq!(spec.columns.len(), spec.schema.fields().len(), "{}: one field per column", spec.name);
        for (column, field) in spec.columns.iter().zip(spec.schema.fields()) {
            assert_eq!(&column.column_type.arrow(), field.data_type(), "{}.{}", spec.name, column.name);
            let never_null = !column.nullable || column.default.is_some();
            assert!(field.is_nullable() || never_null, "{}.{}: the field must be nullable", spec.name, column.name);
            let of_item = matches!(column.from, ColumnFrom::Item(_) | ColumnFrom::ItemIndex);
            assert!(!of_item || spec.explode.is_some(), "{}.{}: there is no item", spec.name, column.name);
        }
        let features = FeatureInputs::new(&spec.feature_inputs);
        let parser = match &spec.payload {
            PayloadSpec::Json => Parser::Json(JsonParser::new(spec.limits.depth_max)),
            PayloadSpec::Binary(binary) => Parser::Binary(BinaryParser::new(binary, &spec)),
        };
        let rows = Rows::new(&spec);
        Decoder { spec, features, parser, rows }
    }

    pub fn spec(&self) -> &DecodeSpec {
        &self.spec
    }

    /// Ids of schemas that records of `raw` were written with and that the decoder was not told of.
    pub fn wants(&mut self, raw: &RawBatch) -> Vec<u32> {
        match &mut self.parser {
            Parser::Json(_) => Vec::new(),
            Parser::Binary(binary) => binary.wants(raw),
        }
    }

    /// Tells the decoder what the registry holds for an id.
    pub fn learn(&mut self, id: u32, schema: &RegisteredSchema) {
        if let Parser::Binary(binary) = &mut self.parser {
            binary.learn(id, schema);
        }
    }

    /// What was found about schemas since the last call: columns that they cannot fill.
    pub fn schema_news(&mut self) -> Vec<String> {
        match &mut self.parser {
            Parser::Json(_) => Vec::new(),
            Parser::Binary(binary) => binary.news(),
        }
    }

    /// Of a stream without columns of dimensions; panics at another, which wants to be [enriched](Decoder::decode_with).
    pub fn decode(&mut self, raw: &RawBatch) -> DecodedBatch {
        self.decode_rows(raw, None).expect("the stream has no columns of dimensions").0
    }

    /// Asks `enrich` for the columns that the records do not have.
    pub fn decode_with(&mut self, raw: &RawBatch, enrich: Option<&dyn Enrich>) -> Result<DecodedBatch, EnrichError> {
        Ok(self.decode_rows(raw, enrich)?.0)
    }

    /// As [`Decoder::decode_with`], and for each accepted row the index of its record in `raw`.
    pub fn decode_with_origins(
        &mut self,
        raw: &RawBatch,
        enrich: Option<&dyn Enrich>,
    ) -> Result<(DecodedBatch, Vec<u32>), EnrichError> {
        let (decoded, accepted) = self.decode_rows(raw, enrich)?;
        let origins = self.rows.record_of.iter().zip(accepted).filter_map(|(record, row)| row.then_some(*record));
        Ok((decoded, origins.collect()))
    }

    /// The batch, and which of the rows walked are in it.
    fn decode_rows(
        &mut self,
        raw: &RawBatch,
        enrich: Option<&dyn Enrich>,
    ) -> Result<(DecodedBatch, impl Iterator<Item = bool> + use<>), EnrichError> {
        self.rows.start(raw.records.len());
        let mut refusals = Vec::new();
        for record in 0..raw.records.len() {
            if let Err((kind, message)) = self.decode_record(record, raw) {
                refusals.push(Refusal { record, item: None, kind, message });
            }
        }
        let (spec, features, rows) = (&self.spec, &self.features, &mut self.rows);
        Settle { spec, features, rows, raw, refusals }.run(enrich)
    }

    fn decode_record(&mut self, index: usize, raw: &RawBatch) -> Result<(), (RejectKind, String)> {
        let payload = match &raw.records[index].payload {
            Some(payload) if !payload.is_empty() => raw.slice(payload),
            Some(_) => return Err((RejectKind::EmptyPayload, "the record is empty".to_string())),
            None => return Err((RejectKind::EmptyPayload, "the record has no payload (a tombstone)".to_string())),
        };
        let bytes_max = self.spec.limits.record_bytes_max;
        // A source may have cut off what is above the limit, wherever in the record.
        let RawRecord { key, headers, .. } = &raw.records[index];
        let around = headers.iter().flat_map(|(name, value)| [name, value]).chain(key).map(Range::len).sum::<usize>();
        if payload.len() + around > bytes_max {
            return Err((RejectKind::TooLarge, format!("the record has more than {bytes_max} bytes")));
        }
        let (spec, rows) = (&self.spec, &mut self.rows);
        match &mut self.parser {
            Parser::Json(json) => json.parse(payload, |document| rows.add(index, &document, spec, raw)),
            Parser::Binary(binary) => binary.parse(payload, spec, |document| rows.add(index, &document, spec, raw)),
        }
    }
}

#[cfg(test)]
mod tests;
