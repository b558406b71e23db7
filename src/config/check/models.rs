//! Models: which score, and what they are fed.

use super::Checker;
use super::features::GroupDraft;
use super::samples::SampleDraft;
use super::streams::StreamDraft;
use crate::config::diagnostic::nearest;
use crate::config::raw::{Model, ModelInput as RawInput, Pipeline};
use crate::config::tree::Path;
use crate::model::{ModelInput, ModelInputFrom, ModelSpec};
use arrow::datatypes::DataType;

pub fn check(
    c: &mut Checker<'_>,
    raw: &Pipeline,
    streams: &[StreamDraft],
    groups: &[GroupDraft],
    samples: &[SampleDraft],
) -> Vec<ModelSpec> {
    let mut context: Vec<&str> = Vec::new();
    for sample in samples {
        let anchor = &streams[sample.plan.join.anchor as usize];
        context.extend(anchor.plan.decode.schema.fields().iter().map(|field| field.name().as_str()));
    }
    raw.models.iter().map(|(name, model)| one(c, name, model, groups, &context)).collect()
}

fn one(c: &mut Checker<'_>, name: &str, raw: &Model, groups: &[GroupDraft], columns: &[&str]) -> ModelSpec {
    let path = Path::of(&["models", name]);
    if raw.path.is_empty() {
        c.error(&path.key("path"), "an empty path").expected("a folder with one numbered folder per version");
    }
    let at = path.key("features");
    if raw.features.is_empty() && !c.is_cut(&at) {
        c.error(&at, "no inputs").expected("at least one feature or context column");
    }
    let mut inputs: Vec<ModelInput> = Vec::with_capacity(raw.features.len());
    for (index, input) in raw.features.iter().enumerate() {
        let at = at.index(index);
        let (input, default) = match input {
            RawInput::Name(name) => (name, None),
            RawInput::WithDefault(named) => (&named.name, named.default),
        };
        if inputs.iter().any(|known| known.name == *input) {
            c.error(&at, format!("the input `{input}` twice")).expected("each input once");
        }
        let context = columns.iter().copied().chain(raw.context.iter().map(String::as_str));
        if let Some(from) = source(c, input, groups, context, &at) {
            inputs.push(ModelInput { name: input.clone(), from, default });
        }
    }
    ModelSpec { name: name.into(), path: raw.path.as_str().into(), inputs, output: raw.output.clone() }
}

/// Whether the name may belong to what was found wrong elsewhere.
fn hidden(c: &Checker<'_>, name: &str, groups: &[GroupDraft]) -> bool {
    let declared: Vec<Path> =
        groups.iter().flat_map(|draft| [draft.path.key("aggregates"), draft.path.key("derived")]).collect();
    c.may_be_cut(name, &declared) || c.lost_whole("features") || c.lost_whole("samples") || c.lost_columns(name)
}

fn source<'n>(
    c: &mut Checker<'_>,
    name: &str,
    groups: &'n [GroupDraft],
    context: impl Iterator<Item = &'n str> + Clone,
    at: &Path,
) -> Option<ModelInputFrom> {
    for (group, draft) in groups.iter().enumerate() {
        let Some((output, field)) = draft.spec.outputs.column_with_name(name) else { continue };
        if let DataType::List(_) = field.data_type() {
            c.error(at, format!("`{name}`, a list: lists as model inputs are not supported yet"))
                .help("use an aggregate with a single value, or a derived column");
            return None;
        }
        return Some(ModelInputFrom::Feature { group, output });
    }
    if context.clone().any(|known| known == name) {
        return Some(ModelInputFrom::Context);
    }
    if !hidden(c, name, groups) {
        let outputs =
            groups.iter().flat_map(|draft| draft.spec.outputs.fields().iter().map(|field| field.name().as_str()));
        let help = match nearest(name, outputs.chain(context)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                "an input is a feature output, a column of an impression stream, or a name under the model's `context`"
                    .into()
            }
        };
        c.error(at, format!("unknown feature `{name}`")).help(help);
    }
    None
}
