//! External data: finds tensors whose bytes an ONNX file keeps in another file.
//!
//! Such a reference is a path that the runtime would open; a model is loaded from its own bytes alone. This walks the
//! protobuf wire format along the fields that can hold a tensor, without decoding anything else.

/// Which messages of onnx.proto lead to tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

impl Message {
    fn child(self, field: u64) -> Option<Message> {
        use Message::*;
        match (self, field) {
            (Model, 7) => Some(Graph),
            (Model, 20) => Some(Training),
            (Model, 25) => Some(Function),
            (Training, 1 | 2) => Some(Graph),
            (Graph, 1) => Some(Node),
            (Graph, 5) => Some(Tensor),
            (Graph, 15) => Some(SparseTensor),
            (Function, 7) => Some(Node),
            (Function, 11) => Some(Attribute),
            (Node, 5) => Some(Attribute),
            (Attribute, 5 | 10) => Some(Tensor),
            (Attribute, 6 | 11) => Some(Graph),
            (Attribute, 22 | 23) => Some(SparseTensor),
            (SparseTensor, 1 | 2) => Some(Tensor),
            _ => None,
        }
    }
}

const TENSOR_EXTERNAL_DATA: u64 = 13;
const TENSOR_DATA_LOCATION: u64 = 14;
const NESTING_MAX: usize = 64;

/// Bytes that are not a protobuf message, or one that nests deeper than any model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOnnx;

/// Whether any tensor of the model lies outside it.
pub(super) fn has_external_data(model: &[u8]) -> Result<bool, NotOnnx> {
    walk(model, Message::Model, 0)
}

fn walk(mut bytes: &[u8], message: Message, nesting: usize) -> Result<bool, NotOnnx> {
    if nesting > NESTING_MAX {
        return Err(NotOnnx);
    }
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = tag >> 3;
        match tag & 7 {
            0 => {
                let value = varint(&mut bytes)?;
                if message == Message::Tensor && field == TENSOR_DATA_LOCATION && value != 0 {
                    return Ok(true);
                }
            }
            1 => drop(take(&mut bytes, 8)?),
            2 => {
                let length = varint(&mut bytes)?;
                let inner = take(&mut bytes, usize::try_from(length).map_err(|_| NotOnnx)?)?;
                if message == Message::Tensor && field == TENSOR_EXTERNAL_DATA {
                    return Ok(true);
                }
                if let Some(child) = message.child(field)
                    && walk(inner, child, nesting + 1)?
                {
                    return Ok(true);
                }
            }
            5 => drop(take(&mut bytes, 4)?),
            _ => return Err(NotOnnx),
        }
    }
    Ok(false)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], NotOnnx> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(NotOnnx)?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, NotOnnx> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= ((byte & 0x7f) as u64) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(NotOnnx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        assert!(inner.len() < 128);
        let mut out = if number < 16 { vec![number << 3 | 2] } else { vec![number << 3 & 0x7f | 0x82, number >> 4] };
        out.push(inner.len() as u8);
        out.extend_from_slice(inner);
        out
    }

    #[test]
    fn tensors_outside_the_file_are_found_wherever_they_hide() {
        let by_location = vec![14 << 3, 1];
        let by_entries = field(13, b"location");
        for tensor in [by_location, by_entries] {
            let initializer = field(7, &field(5, &tensor));
            let in_a_node = field(7, &field(1, &field(5, &field(5, &tensor))));
            let in_a_branch = field(7, &field(1, &field(5, &field(6, &field(5, &tensor)))));
            let in_a_function = field(25, &field(7, &field(5, &field(5, &tensor))));
            let sparse = field(7, &field(15, &field(1, &tensor)));
            for model in [initializer, in_a_node, in_a_branch, in_a_function, sparse] {
                assert_eq!(has_external_data(&model), Ok(true), "{model:?}");
            }
        }
    }

    #[test]
    fn a_model_that_holds_its_own_tensors_passes() {
        let tensor = [vec![14 << 3, 0], field(9, &[1, 2, 3, 4])].concat();
        assert_eq!(has_external_data(&field(7, &field(5, &tensor))), Ok(false));
        assert_eq!(has_external_data(&[]), Ok(false));
    }

    #[test]
    fn bytes_that_are_no_model_are_refused_without_a_panic() {
        for bytes in [&b"{\"not\": \"onnx\"}"[..], &[0x3a, 0xff, 0xff], &[0xff; 32]] {
            assert_eq!(has_external_data(bytes), Err(NotOnnx), "{bytes:?}");
        }
    }
}
