//! Inputs: how columns of values become the tensors of a model.
//!
//! Packed: the model has one rank-2 float input `[N, k]`, which takes the plan's inputs as its columns, in their order.
//! By name: the model has one input per input of the plan, under the same name, `[N]` or `[N, 1]`.
//! A model with one input and a plan with one input is packed if the input is a rank-2 float of another name.

use super::element::{Element, bool_of, integer_of, number_of, text_of};
use super::{ModelError, ModelInput, ModelInputFrom, ModelSpec};
use crate::event::Value;
use crate::feature::GroupSpec;
use ort::session::SessionInputValue;
use ort::value::{Outlet, Tensor, ValueType};

/// Values of one input for the rows of a request.
#[derive(Clone, Copy, Debug)]
pub enum InputColumn<'a> {
    /// The same value in every row.
    All(&'a Value),
    /// One value per row.
    Rows(&'a [Value]),
}

impl InputColumn<'_> {
    fn get(&self, row: usize) -> &Value {
        match self {
            InputColumn::All(value) => value,
            InputColumn::Rows(values) => &values[row],
        }
    }
}

struct InputSlot {
    name: String,
    element: Element,
    /// `[N]` or `[N, 1]`; ignored when packed.
    rank: usize,
    default: Option<Value>,
}

pub(super) struct InputPlan {
    slots: Vec<InputSlot>,
    /// The name of the one input that takes all columns.
    packed: Option<String>,
}

impl InputPlan {
    /// Checks the model's inputs against the plan's; says everything that does not fit.
    pub fn new(spec: &ModelSpec, groups: &[GroupSpec], found: &[Outlet]) -> Result<InputPlan, Vec<String>> {
        let mut problems = Vec::new();
        let plan = match packed_input(spec, found) {
            Some(Packed { name, batch, width, element }) => {
                if batch >= 0 {
                    problems.push(format!("input `{name}` {}", fixed_batch(batch)));
                }
                if width >= 0 && width as usize != spec.inputs.len() {
                    let names: Vec<&str> = spec.inputs.iter().map(|input| input.name.as_str()).collect();
                    problems.push(format!(
                        "input `{name}` takes {width} features and the pipeline file lists {}: {}",
                        names.len(),
                        names.join(", ")
                    ));
                }
                let slots = spec.inputs.iter().map(|input| slot(input, element, 2)).collect();
                InputPlan { slots, packed: Some(name.to_owned()) }
            }
            None => InputPlan { slots: by_name(spec, found, &mut problems), packed: None },
        };
        for (slot, input) in plan.slots.iter().zip(&spec.inputs) {
            check_type(slot, input, groups, &mut problems);
        }
        match problems.is_empty() {
            true => Ok(plan),
            false => {
                problems.push(format!("the model has: {}", describe(found)));
                Err(problems)
            }
        }
    }

    /// A row of values that every model of this contract takes.
    pub fn plain_values(&self) -> Vec<Value> {
        let plain = |slot: &InputSlot| match (&slot.default, slot.element) {
            (Some(default), _) => default.clone(),
            (None, Element::Text) => Value::Text("".into()),
            (None, Element::Bool) => Value::Bool(false),
            (None, Element::Float32 | Element::Float64) => Value::Float(0.0),
            (None, Element::Int32 | Element::Int64) => Value::Int(0),
        };
        self.slots.iter().map(plain).collect()
    }

    /// The tensors of `rows` rows by name, and per input the rows in which it was null.
    pub fn tensors(&self, rows: usize, columns: &[InputColumn<'_>]) -> Result<(Tensors, Vec<u64>), ModelError> {
        assert_eq!(columns.len(), self.slots.len(), "one column per input of the plan");
        let mut missing = vec![0; self.slots.len()];
        let mut tensors = Vec::new();
        if let Some(name) = &self.packed {
            let width = self.slots.len();
            let mut numbers = vec![0f64; rows * width];
            for (number, (slot, column)) in self.slots.iter().zip(columns).enumerate() {
                let targets = numbers[number..].iter_mut().step_by(width);
                for (row, target) in targets.enumerate() {
                    *target = slot.value(column, row, &mut missing[number], number_of)?;
                }
            }
            let shape = vec![rows as i64, width as i64];
            let tensor = match self.slots[0].element {
                Element::Float64 => dynamic(name, Tensor::from_array((shape, numbers)))?,
                _ => dynamic(name, Tensor::from_array((shape, numbers.iter().map(|&n| n as f32).collect::<Vec<_>>())))?,
            };
            tensors.push((name.clone(), tensor));
            return Ok((tensors, missing));
        }
        for ((slot, column), missing) in self.slots.iter().zip(columns).zip(&mut missing) {
            tensors.push((slot.name.clone(), slot.tensor(rows, column, missing)?));
        }
        Ok((tensors, missing))
    }
}

type Tensors = Vec<(String, SessionInputValue<'static>)>;

impl InputSlot {
    fn tensor(
        &self,
        rows: usize,
        column: &InputColumn<'_>,
        missing: &mut u64,
    ) -> Result<SessionInputValue<'static>, ModelError> {
        let shape = if self.rank == 1 { vec![rows as i64] } else { vec![rows as i64, 1] };
        let name = &self.name;
        match self.element {
            Element::Float32 => {
                let narrow = |value: &Value| number_of(value).map(|number| number as f32);
                dynamic(name, Tensor::from_array((shape, self.values(rows, column, missing, narrow)?)))
            }
            Element::Float64 => {
                dynamic(name, Tensor::from_array((shape, self.values(rows, column, missing, number_of)?)))
            }
            Element::Int32 => {
                let narrow = |value: &Value| integer_of(value).and_then(|number| i32::try_from(number).ok());
                dynamic(name, Tensor::from_array((shape, self.values(rows, column, missing, narrow)?)))
            }
            Element::Int64 => {
                dynamic(name, Tensor::from_array((shape, self.values(rows, column, missing, integer_of)?)))
            }
            Element::Bool => dynamic(name, Tensor::from_array((shape, self.values(rows, column, missing, bool_of)?))),
            Element::Text => {
                let texts: Vec<String> = self.values(rows, column, missing, text_of)?;
                dynamic(name, Tensor::from_string_array((shape, texts.as_slice())))
            }
        }
    }

    fn values<T>(
        &self,
        rows: usize,
        column: &InputColumn<'_>,
        missing: &mut u64,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ModelError> {
        (0..rows).map(|row| self.value(column, row, missing, &convert)).collect()
    }

    fn value<T>(
        &self,
        column: &InputColumn<'_>,
        row: usize,
        missing: &mut u64,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        const NAN: Value = Value::Float(f64::NAN);
        let mut value = column.get(row);
        if *value == Value::Null {
            *missing += 1;
            value = match &self.default {
                Some(default) => default,
                None if self.element.is_float() => &NAN,
                None => &Value::Null,
            };
        }
        convert(value).ok_or_else(|| ModelError::Input {
            input: self.name.clone(),
            row,
            problem: match value {
                Value::Null => {
                    format!("it is null, which {} cannot hold; give it a `default`", self.element.name())
                }
                other => format!("{other:?} does not fit {}", self.element.name()),
            },
        })
    }
}

fn dynamic<T>(
    name: &str,
    tensor: Result<ort::value::Value<T>, ort::Error>,
) -> Result<SessionInputValue<'static>, ModelError>
where
    T: ort::value::ValueTypeMarker,
{
    tensor.map(SessionInputValue::from).map_err(|error| ModelError::Input {
        input: name.to_owned(),
        row: 0,
        problem: error.to_string(),
    })
}

fn slot(input: &ModelInput, element: Element, rank: usize) -> InputSlot {
    let default = input.default.map(|default| match element {
        Element::Int32 | Element::Int64 if default.fract() == 0.0 => Value::Int(default as i64),
        Element::Bool if default == 0.0 || default == 1.0 => Value::Bool(default == 1.0),
        _ => Value::Float(default),
    });
    InputSlot { name: input.name.clone(), element, rank, default }
}

/// The one rank-2 float input that takes all features.
struct Packed<'a> {
    name: &'a str,
    /// Sizes of the axes; -1 is any.
    batch: i64,
    width: i64,
    element: Element,
}

fn packed_input<'a>(spec: &ModelSpec, found: &'a [Outlet]) -> Option<Packed<'a>> {
    let [input] = found else {
        return None;
    };
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return None;
    };
    let element = Element::of(*ty).filter(|element| element.is_float())?;
    let [batch, width] = shape[..] else {
        return None;
    };
    let named = spec.inputs.len() == 1 && spec.inputs[0].name == input.name();
    (!named && !spec.inputs.is_empty()).then(|| Packed { name: input.name(), batch, width, element })
}

fn fixed_batch(batch: i64) -> String {
    format!("has a fixed batch size of {batch}; export it with a dynamic first axis")
}

fn by_name(spec: &ModelSpec, found: &[Outlet], problems: &mut Vec<String>) -> Vec<InputSlot> {
    for outlet in found {
        if !spec.inputs.iter().any(|input| input.name == outlet.name()) {
            problems.push(format!(
                "the model wants `{}`, which `features` does not list{}",
                outlet.name(),
                suggest(outlet.name(), spec.inputs.iter().map(|input| input.name.as_str()))
            ));
        }
    }
    let mut slots = Vec::new();
    for input in &spec.inputs {
        let Some(outlet) = found.iter().find(|outlet| outlet.name() == input.name) else {
            let names = found.iter().map(Outlet::name);
            problems.push(format!(
                "`features` lists `{0}`, which the model does not take{1}",
                input.name,
                suggest(&input.name, names)
            ));
            // Keeps the slots aligned with the inputs for the checks that follow.
            slots.push(slot(input, Element::Float32, 1));
            continue;
        };
        slots.push(match tensor_of(outlet) {
            Ok((element, rank)) => slot(input, element, rank),
            Err(problem) => {
                problems.push(format!("input `{}` {problem}", input.name));
                slot(input, Element::Float32, 1)
            }
        });
    }
    slots
}

/// Element type and rank of an input that takes one value per row.
fn tensor_of(outlet: &Outlet) -> Result<(Element, usize), String> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(format!("is {}; only tensors are supported", outlet.dtype()));
    };
    let element = Element::of(*ty)
        .ok_or_else(|| format!("holds {ty:?}; supported are float32, float64, int32, int64, bool and string"))?;
    match shape[..] {
        [batch] | [batch, -1 | 1] if batch < 0 => Ok((element, shape.len())),
        [batch, ..] if batch >= 0 => Err(fixed_batch(batch)),
        _ => Err(format!("has the shape {:?}; expected is [N] or [N, 1]", &shape[..])),
    }
}

fn check_type(slot: &InputSlot, input: &ModelInput, groups: &[GroupSpec], problems: &mut Vec<String>) {
    if let ModelInputFrom::Feature { group, output } = input.from {
        let data_type = groups[group].outputs.field(output).data_type();
        if !slot.element.takes(data_type) {
            problems.push(format!(
                "feature `{}` is of type {data_type}, which the model's {} cannot take",
                input.name,
                slot.element.name()
            ));
        }
    }
    let fits = match (&slot.default, slot.element) {
        (None, _) => true,
        (Some(default), Element::Int32 | Element::Int64) => integer_of(default).is_some(),
        (Some(default), Element::Bool) => bool_of(default).is_some(),
        (Some(_), element) => element.is_float(),
    };
    if !fits {
        problems.push(format!("the default of `{}` does not fit the model's {}", input.name, slot.element.name()));
    }
}

fn suggest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance * 3 <= wrong.len().max(name.len()))
        .min();
    near.map(|(_, name)| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn describe(found: &[Outlet]) -> String {
    let one = |outlet: &Outlet| format!("{}: {}", outlet.name(), outlet.dtype());
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}
