"""Calls the program's experiment function with what the evaluator asks for, and writes down what it returns. Frozen."""

import importlib
import json
import os
from pathlib import Path

import carried

asked = json.loads(Path(os.environ["NIGHTLAB_INPUTS"], "questions.json").read_text())
experiment = getattr(importlib.import_module(asked["module"]), asked["function"])
for number, call in enumerate(asked["calls"]):
    result = experiment(**carried.unpacked(call))
    carried.write(Path(os.environ["NIGHTLAB_PREDICTIONS"], f"{number:04d}.json"), result)
