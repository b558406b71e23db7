#!/usr/bin/env python3
"""Makes the small models of tests/it/model_contract.rs: one per way in which a model may or may not fit.

    pip install numpy onnx
    python tests/data/make_models.py
"""

import pathlib

import numpy as np
from onnx import TensorProto, checker, external_data_helper, helper, numpy_helper

HERE = pathlib.Path(__file__).parent / "models"


def save(name, nodes, inputs, outputs, constants=None, ml=False, external=False):
    info = lambda tensor: helper.make_tensor_value_info(*tensor)
    initializers = [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, name, [info(i) for i in inputs], [info(o) for o in outputs], initializers)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="make_models")
    checker.check_model(model)
    if external:
        for tensor in model.graph.initializer:
            external_data_helper.set_external_data(tensor, "weights.bin")
            tensor.ClearField("raw_data")
    path = HERE / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


node = helper.make_node
FLOAT, DOUBLE, INT32, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64
BOOL, STRING = TensorProto.BOOL, TensorProto.STRING

weights = np.array([[100], [10], [1]], np.float32)
# 100 a + 10 b + c: the order of the columns shows.
save("packed", [node("MatMul", ["features", "w"], ["score"])], [("features", FLOAT, ["N", 3])], [("score", FLOAT, ["N", 1])], {"w": weights})
save(
    "packed_double",
    [node("MatMul", ["features", "w"], ["score"])],
    [("features", DOUBLE, ["N", None])],
    [("score", DOUBLE, ["N", 1])],
    {"w": weights.astype(np.float64)},
)
save("external", [node("MatMul", ["features", "w"], ["score"])], [("features", FLOAT, ["N", 3])], [("score", FLOAT, ["N", 1])], {"w": weights}, external=True)
save("fixed_batch", [node("MatMul", ["features", "w"], ["score"])], [("features", FLOAT, [1, 3])], [("score", FLOAT, [1, 1])], {"w": weights})

# One input of every type: f32 + f64 + i32 + i64 / 2^40 + (b ? 1000 : 0) + {"DE": 0.25, else 0.5}.
save(
    "typed",
    [
        node("Cast", ["f64"], ["f64_f"], to=FLOAT),
        node("Cast", ["i32"], ["i32_f"], to=FLOAT),
        node("Div", ["i64", "shift"], ["i64_s"]),
        node("Cast", ["i64_s"], ["i64_f"], to=FLOAT),
        node("Cast", ["flag"], ["flag_f"], to=FLOAT),
        node("Mul", ["flag_f", "thousand"], ["flag_k"]),
        node("LabelEncoder", ["text"], ["text_f"], domain="ai.onnx.ml", keys_strings=["DE"], values_floats=[0.25], default_float=0.5),
        node("Squeeze", ["f32", "axis"], ["f32_s"]),
        node("Sum", ["f32_s", "f64_f", "i32_f", "i64_f", "flag_k", "text_f"], ["score"]),
    ],
    [("f32", FLOAT, ["N", 1]), ("f64", DOUBLE, ["N"]), ("i32", INT32, ["N"]), ("i64", INT64, ["N"]), ("flag", BOOL, ["N"]), ("text", STRING, ["N"])],
    [("score", FLOAT, ["N"])],
    {"shift": np.array(1 << 40, np.int64), "thousand": np.array(1000, np.float32), "axis": np.array([1], np.int64)},
    ml=True,
)
# The two class probabilities of a classifier, beside its label.
save(
    "pair",
    [node("Sub", ["one", "a"], ["rest"]), node("Concat", ["rest", "a"], ["probabilities"], axis=1), node("Cast", ["a"], ["label"], to=INT64)],
    [("a", FLOAT, ["N", 1])],
    [("label", INT64, ["N", 1]), ("probabilities", FLOAT, ["N", 2])],
    {"one": np.array(1, np.float32)},
)
# Finite for 0, which is what the first run feeds, and for nothing below.
save("logarithm", [node("Add", ["a", "one"], ["above"]), node("Log", ["above"], ["score"])], [("a", FLOAT, ["N"])], [("score", FLOAT, ["N"])], {"one": np.array(1, np.float32)})
save("never_finite", [node("Log", ["a"], ["score"])], [("a", FLOAT, ["N"])], [("score", FLOAT, ["N"])])
save("two_each", [node("Concat", ["a", "a"], ["score"], axis=0)], [("a", FLOAT, ["N"])], [("score", FLOAT, ["M"])])
