"""Inside the evaluator's jail: calls another system's evaluator as that system would. Knows nothing of the lab.

    inside.py SETTINGS WHAT OUT     WHAT: openevolve, gepa, questions or answers; OUT: where the result goes

This file is started by path, by the interpreter of the user's project.
"""

import contextlib
import importlib.util
import inspect
import json
import math
import os
import random
import sys
import tempfile
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for carried, which stands beside this file
import carried  # noqa: E402

sys.path.pop(0)
DEEPEST = 4


class Captured(BaseException):
    """Ends an evaluator that has said how it would run: it is not to run anything itself."""


def main(settings, what, out):
    """Do one thing, and write a JSON object: numbers, per_example, or why there are none."""
    told = json.loads(settings)
    seed(told.get("seed", 0))
    with contextlib.redirect_stdout(sys.stderr):  # what it prints is for people
        done = {"openevolve": by_path, "gepa": by_text, "questions": questions, "answers": answers}[what](told)
    Path(out).write_text(json.dumps(done))


def seed(number):
    """All chance that can be reached comes from the lab's seed."""
    random.seed(number)
    os.environ["NIGHTLAB_SEED"] = str(number)
    with contextlib.suppress(ImportError):
        import numpy

        numpy.random.seed(number % 2**32)


def loaded(path):
    """An evaluator's module, its own folder first on the path."""
    path = Path(path).resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def numbers(said, front="", depth=0):
    """Name -> number of everything that is one; what lies deeper has its path for a name."""
    if hasattr(said, "metrics") and not isinstance(said, dict):  # OpenEvolve's own result object
        said = said.metrics
    if isinstance(said, dict):
        found = {}
        for name, value in said.items():
            if depth < DEEPEST:
                found.update(numbers(value, f"{front}.{name}" if front else str(name), depth + 1))
        return found
    if isinstance(said, bool) or not hasattr(said, "__float__"):
        return {}
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        value = float(said)
        return {front or "score": value if math.isfinite(value) else str(value)}
    return {}


# --- the evaluator runs the candidate ---------------------------------------------------------------------------------


def by_path(told):
    """evaluate(path) -> dict."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, told["program"])
        path.write_text(candidate(told), encoding="utf-8")
        sys.modules["openevolve"] = sys.modules["openevolve.evaluation_result"] = _openevolve()
        return {"numbers": numbers(getattr(loaded(told["evaluator"]), told["function"])(str(path)))}


def candidate(told):
    """The text that was handed in."""
    return json.loads(Path(told["results"][0]).read_text(encoding="utf-8"))


def _openevolve():
    """Enough of OpenEvolve to import: its result object."""
    module = types.ModuleType("openevolve")

    class EvaluationResult:
        def __init__(self, metrics=None, artifacts=None, **_):
            self.metrics, self.artifacts = metrics or {}, artifacts or {}

    module.EvaluationResult, module.__path__ = EvaluationResult, []
    return module


def by_text(told):
    """evaluate(candidate), or evaluate(candidate, example) over the module's own data set."""
    module = loaded(told["evaluator"])
    evaluate = getattr(module, told["function"])
    wants = [name for name, one in inspect.signature(evaluate).parameters.items() if one.default is one.empty]
    if len(wants) < 2:
        return {"numbers": scored(evaluate(candidate(told)))}
    rows = next((list(getattr(module, name)) for name in ("valset", "dataset") if hasattr(module, name)), None)
    if not rows:
        raise SystemExit(f"{told['function']} wants an example, and the module has neither valset nor dataset")
    each = [scored(evaluate(candidate(told), row))["score"] for row in rows]
    return {"numbers": {"score": sum(each) / len(each)}, "per_example": each}


def scored(said):
    """The score of a result: a number, or a number and what it says besides."""
    score, aside = said if isinstance(said, tuple) else (said, {})
    more = {f"side.{name}": value for name, value in numbers(aside).items()}
    return {"score": float(score), **more}


# --- the lab runs the candidate, the evaluator sees results -----------------------------------------------------------


def plan(told):
    """How an evaluator would run and judge: from its own call of run_shinka_eval, else from its functions' names."""
    module = None
    kept = {}

    def run_shinka_eval(*args, **more):
        names = ("program_path", "results_dir", "experiment_fn_name", "num_runs")
        kept.update(dict(zip(names, args)) | more)
        raise Captured

    core = types.ModuleType("shinka.core")
    core.run_shinka_eval = run_shinka_eval
    package = types.ModuleType("shinka")
    package.core, package.__path__ = core, []
    sys.modules["shinka"], sys.modules["shinka.core"] = package, core
    module = loaded(told["evaluator"])
    with tempfile.TemporaryDirectory() as results, contextlib.suppress(Captured):
        if hasattr(module, "main"):
            module.main("program.py", results)
    first = lambda *names: next((getattr(module, name) for name in names if hasattr(module, name)), None)  # noqa: E731
    kept.setdefault("num_runs", getattr(module, "NUM_RUNS", 1))
    kept.setdefault("experiment_fn_name", "run_experiment")
    kept.setdefault("get_experiment_kwargs", first("get_experiment_kwargs", "experiment_kwargs"))
    kept.setdefault("validate_fn", first("validate_fn", "validate"))
    kept.setdefault("aggregate_metrics_fn", first("aggregate_metrics_fn", "aggregate_metrics", "aggregate"))
    if kept["aggregate_metrics_fn"] is None:
        raise SystemExit("the evaluator neither calls run_shinka_eval nor has a function called aggregate")
    return kept


def questions(told):
    """What each run of the experiment is called with."""
    kept = plan(told)
    give = kept.get("get_experiment_kwargs")
    calls = [give(number) if give else {"seed": number + 1} for number in range(kept["num_runs"])]
    return {"function": kept["experiment_fn_name"], "calls": [carried.packed(dict(call)) for call in calls]}


def answers(told):
    """What the evaluator says of the results; one that is not valid is a refusal."""
    kept = plan(told)
    results = [carried.read(path) for path in told["results"]]
    validate = kept.get("validate_fn")
    for result in results if validate else ():
        said = validate(result)
        is_valid, why = said if isinstance(said, tuple) else (said, None)
        if not is_valid:
            return {"invalid": str(why or "the evaluator's validate refused the result")[:500]}
    return {"numbers": numbers(kept["aggregate_metrics_fn"](results))}


if __name__ == "__main__":
    main(*sys.argv[1:])
