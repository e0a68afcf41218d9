"""Runs scripts for constants, and Optuna beside them, in an environment that has both: one JSON line in, one out.

This file knows nothing of Nightlab and is started by path. A script is what a person would run; it is executed here and
not in a process of its own, since starting one takes thirty times as long as the work.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

CONTEXTS = 2000
"""Questions to tinylm; its judge asks more, which takes longer than the training does."""
BYTES = 20_000


class TooLong(BaseException):
    """A run has used up its CPU seconds. No script may catch it by catching every Exception."""


def main(folder: str, judge: str) -> None:
    """Answer until the input ends. `folder` is for what tinylm keeps, `judge` the path of its judge."""
    signal.signal(signal.SIGPROF, _out_of_time)
    out, sys.stdout = sys.stdout, io.StringIO()
    studies: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer = (
            versions() if asked["verb"] == "versions" else
            score(asked, Path(folder), judge) if asked["verb"] == "score" else
            ask(asked, studies) if asked["verb"] == "ask" else
            tell(asked, studies)
        )  # fmt: skip
        print(json.dumps(answer), file=out, flush=True)


def versions() -> dict[str, str]:
    """What is installed here."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "optuna", "scikit-learn")}


def _out_of_time(signum: int, frame: object) -> None:
    raise TooLong


# --- scripts ----------------------------------------------------------------------------------------------------------


def score(asked: dict[str, Any], folder: Path, judge: str) -> dict[str, Any]:
    """The loss of a script under a seed and the CPU seconds it took; what went wrong where there is none."""
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, asked["cap"])
    try:
        try:
            value = (tinylm if asked["script"] == "tinylm" else printed)(asked["source"], asked["seed"], folder, judge)
        finally:  # the signal may still come while it is being called off
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (Exception, SystemExit, TooLong) as error:  # noqa: BLE001 - a stranger's script, recorded whatever it does
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"failure": f"{type(error).__name__}: {error} (line {last.lineno})"}
    seconds = time.process_time() - begin
    return {"value": value, "cpu": seconds} if math.isfinite(value) else {"failure": f"the loss is {value}"}


def printed(source: str, seed: int, folder: Path, judge: str) -> float:
    """The number that a script prints after `loss:`."""
    os.environ["NIGHTLAB_SEED"] = str(seed)
    _hold_data()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, "script.py", "exec"), {"__name__": "__main__"})
    found = re.findall(r"^loss: (\S+)$", said.getvalue(), re.MULTILINE)
    return float(found[-1])


@functools.cache
def _hold_data() -> None:
    """Read each data set once: scikit-learn unpacks them anew every time."""
    from sklearn import datasets

    datasets.load_digits = functools.cache(datasets.load_digits)
    datasets.load_diabetes = functools.cache(datasets.load_diabetes)


def tinylm(source: str, seed: int, folder: Path, judge: str) -> float:
    """Bits per byte, as tinylm's own judge gives the text and asks the questions; fewer of both."""
    import numpy as np

    os.environ["NIGHTLAB_CACHE"] = str(folder)
    judging = _module(judge)
    contexts, answers = _questions(judging)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        judging.give(Path(name), seed, BYTES)
        os.environ |= {"NIGHTLAB_SEED": str(seed), "NIGHTLAB_GIVEN": name, "NIGHTLAB_OUT": name}
        train: dict[str, Any] = {"__name__": "train"}
        exec(compile(source, "train.py", "exec"), train)
        given = np.fromfile(Path(name, "text.bin"), dtype=np.uint8)
        with np.errstate(all="ignore"):
            model = train["train"](given, np.random.default_rng(seed))
            said = train["predict"](model, contexts)
    return float(-said[np.arange(len(answers)), answers].mean() / math.log(2))


@functools.cache
def _module(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _questions(judging: ModuleType) -> tuple[Any, Any]:
    contexts, answers = judging.questions("validation", 0)
    every = max(1, len(answers) // CONTEXTS)
    return contexts[::every].copy(), answers[::every].copy()


# --- Optuna -----------------------------------------------------------------------------------------------------------


def ask(asked: dict[str, Any], studies: dict[str, Any]) -> dict[str, Any]:
    """Where a study looks next; its first place is where the script stands."""
    import optuna

    ranges = {key: optuna.distributions.FloatDistribution(*ends) for key, ends in asked["ranges"].items()}
    name = asked["study"]
    if name not in studies:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        studies[name] = optuna.create_study(sampler=sampler(asked["sampler"], asked["seed"]))
        studies[name].enqueue_trial(asked["start"])
    study = studies[name]
    trial = studies[f"{name}, trial"] = study.ask(ranges)
    return {"places": trial.params}


def tell(asked: dict[str, Any], studies: dict[str, Any]) -> dict[str, Any]:
    """What came of the place that was asked for last."""
    import optuna

    state = optuna.trial.TrialState.FAIL if asked["value"] is None else None
    studies[asked["study"]].tell(studies[f"{asked['study']}, trial"], asked["value"], state=state)
    return {}


def sampler(name: str, seed: int) -> Any:
    """One of Optuna's."""
    import warnings

    from optuna import samplers

    warnings.simplefilter("ignore")
    known = {
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "tpe, multivariate": lambda: samplers.TPESampler(seed=seed, multivariate=True),
        "cma-es": lambda: samplers.CmaEsSampler(seed=seed),
        "random": lambda: samplers.RandomSampler(seed=seed),
    }
    made: Callable[[], Any] = known[name]
    return made()


if __name__ == "__main__":
    main(*sys.argv[1:])
