"""Scores with Python's onnxruntime: reads {"model": path, "output": name, "inputs": {name: [numbers]}} from standard
input and prints the list of scores. Every input is [N, 1] floats."""
import json
import sys

import numpy as np
import onnxruntime

asked = json.load(sys.stdin)
session = onnxruntime.InferenceSession(asked["model"], providers=["CPUExecutionProvider"])
feeds = {name: np.array(values, dtype=np.float32).reshape(-1, 1) for name, values in asked["inputs"].items()}
scores = session.run([asked["output"]], feeds)[0]
print(json.dumps([float(score) for score in scores.reshape(-1)]))
