//! Need: the fields that a stream reads of a record, as a tree. A schema is read along it: what is not in it is passed
//! over, so that a record costs what its columns cost.

use crate::decode::{ColumnFrom, DecodeSpec};

#[derive(Debug, Default)]
pub(super) struct Need {
    /// Columns whose value is here.
    pub columns: Vec<usize>,
    /// The exploded array is here; what is read of each element.
    pub array: Option<Box<Need>>,
    pub fields: Vec<(String, Need)>,
}

impl Need {
    pub fn of(spec: &DecodeSpec) -> Need {
        let (mut record, mut element) = (Need::default(), Need::default());
        for (index, column) in spec.columns.iter().enumerate() {
            match &column.from {
                ColumnFrom::Path(path) => record.at(path).columns.push(index),
                ColumnFrom::Item(path) => element.at(path).columns.push(index),
                _ => {}
            }
        }
        if let Some(explode) = &spec.explode {
            record.at(&explode.path).array = Some(Box::new(element));
        }
        record
    }

    fn at(&mut self, path: &[String]) -> &mut Need {
        path.iter().fold(self, |need, name| {
            let known = need.fields.iter().position(|(field, _)| field == name);
            let index = known.unwrap_or_else(|| {
                need.fields.push((name.clone(), Need::default()));
                need.fields.len() - 1
            });
            &mut need.fields[index].1
        })
    }

    pub fn field(&self, name: &str) -> Option<&Need> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, need)| need)
    }
}
