//! Output: which of a model's outputs is the score.
//!
//! `[N]` and `[N, 1]` are scores as they are. `[N, 2]`, the two class probabilities of a binary classifier, means its
//! second column: the probability of the positive class.

use super::ModelSpec;
use ort::session::SessionOutputs;
use ort::value::{Outlet, TensorElementType, ValueType};

pub(super) struct OutputPlan {
    name: String,
    double: bool,
}

impl OutputPlan {
    pub fn new(spec: &ModelSpec, found: &[Outlet]) -> Result<OutputPlan, String> {
        let all = || {
            let one = |outlet: &Outlet| format!("{}: {}", outlet.name(), outlet.dtype());
            found.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let outlet = match (&spec.output, found) {
            (Some(name), _) => found
                .iter()
                .find(|outlet| outlet.name() == name)
                .ok_or_else(|| format!("there is no output `{name}`; the model has: {}", all()))?,
            (None, [only]) => only,
            (None, _) => return Err(format!("say which output is the score with `output:`; the model has: {}", all())),
        };
        let refuse = |problem: String| Err(format!("output `{}` {problem}", outlet.name()));
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return refuse(format!(
                "is {}; a tensor of scores is needed (from scikit-learn, export with zipmap=False)",
                outlet.dtype()
            ));
        };
        let double = match ty {
            TensorElementType::Float32 => false,
            TensorElementType::Float64 => true,
            other => return refuse(format!("holds {other:?}; a float32 or float64 score is needed")),
        };
        match shape[..] {
            [batch] | [batch, -1 | 1 | 2] if batch < 0 => Ok(OutputPlan { name: outlet.name().to_owned(), double }),
            [batch, ..] if batch >= 0 => {
                refuse(format!("has a fixed batch size of {batch}; export it with a dynamic first axis"))
            }
            _ => refuse(format!("has the shape {:?}; expected is [N], [N, 1] or [N, 2]", &shape[..])),
        }
    }

    /// One score per row.
    pub fn scores(&self, outputs: &SessionOutputs<'_>, rows: usize) -> Result<Vec<f32>, String> {
        let value = outputs.get(&self.name).ok_or_else(|| format!("output `{}` is missing", self.name))?;
        if self.double {
            let (shape, data) = value.try_extract_tensor::<f64>().map_err(|error| error.to_string())?;
            Ok(pick(shape, data, rows)?.map(|&score| score as f32).collect())
        } else {
            let (shape, data) = value.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
            Ok(pick(shape, data, rows)?.copied().collect())
        }
    }
}

fn pick<'a, T>(shape: &[i64], data: &'a [T], rows: usize) -> Result<impl Iterator<Item = &'a T>, String> {
    let width = match shape {
        [batch] if *batch == rows as i64 => 1,
        [batch, width @ (1 | 2)] if *batch == rows as i64 => *width as usize,
        _ => return Err(format!("{rows} rows gave an output of shape {shape:?}; expected is one score per row")),
    };
    Ok(data.iter().skip(width - 1).step_by(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(shape: &[i64], data: &[f32], rows: usize) -> Result<Vec<f32>, String> {
        pick(shape, data, rows).map(|scores| scores.copied().collect())
    }

    #[test]
    fn of_two_class_probabilities_the_second_is_the_score() {
        assert_eq!(picked(&[2, 2], &[0.9, 0.1, 0.3, 0.7], 2), Ok(vec![0.1, 0.7]));
        assert_eq!(picked(&[2, 1], &[0.1, 0.7], 2), Ok(vec![0.1, 0.7]));
        assert_eq!(picked(&[2], &[0.1, 0.7], 2), Ok(vec![0.1, 0.7]));
    }

    #[test]
    fn an_output_of_another_size_is_an_error() {
        assert!(picked(&[1, 2], &[0.1, 0.7], 2).is_err());
        assert!(picked(&[2, 3], &[0.0; 6], 2).is_err());
    }
}
