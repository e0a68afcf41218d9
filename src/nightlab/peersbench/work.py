"""The work that every system is given: one program of many switches, edits that set one each, and a scripted model.

What a program is worth is the sum of its switches, so that the true worth of any mixture of edits is known. An edit
sets one switch, and no two edits the same one: whatever a system grows from, the edit can be made there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from threading import Lock

from nightlab.testing.modelserver import Answer, Asked, Refusal, Reply

SYSTEMS = ("nightlab", "openevolve", "shinka", "gepa")
HANGS = "hang()"
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Edit:
    """One switch set to a text: mostly a number, which is then what the edit is worth."""

    kind: str
    switch: str
    text: str

    @property
    def worth(self) -> float:
        """What it adds to the true score; nothing where it never gives one."""
        return float(self.text) if self.kind in ("good", "neutral", "harmful") else 0.0

    @property
    def before(self) -> str:
        """The line it replaces."""
        return f"{self.switch} = 0"

    @property
    def after(self) -> str:
        """The line it writes."""
        return f"{self.switch} = {self.text}"


def program(switches: int) -> str:
    """The program at the start: every switch is off."""
    lines = "".join(f"{switch(number)} = 0\n" for number in range(switches))
    return f"""{_HEAD}
# EVOLVE-BLOCK-START
{lines}# EVOLVE-BLOCK-END


def score():
    \"\"\"What the switches are worth together.\"\"\"
    return sum(value for name, value in sorted(globals().items()) if name.startswith("SWITCH_"))
"""


_HEAD = '''"""Many switches; each is worth what it is set to."""

import time


def hang():
    """Never come back, and use no processor."""
    while True:
        time.sleep(0.05)

'''


def switch(number: int) -> str:
    """What a switch is called."""
    return f"SWITCH_{number:03d}"


def truth(source: str) -> float | None:
    """What a program is worth, read off its text; None where it gives no number."""
    values = re.findall(r"^SWITCH_\d+ = (.*)$", source, re.MULTILINE)
    return sum(map(float, values)) if all(re.fullmatch(r"-?\d+(\.\d+)?", one) for one in values) else None


def harmful(count: int) -> list[Edit]:
    """Edits that no honest system keeps: each is one experiment, and none needs a second look."""
    return [Edit("harmful", switch(number), f"-{number + 10}") for number in range(count)]


def bank(
    seed: int, *, good: int = 8, neutral: int = 18, worse: int = 10, broken: int = 3, hanging: int = 1
) -> list[Edit]:
    """A night's edits in an order drawn by the seed. A run varies by 1; good ones are worth a quarter of that to three
    times, neutral ones next to nothing."""
    rng = Random(seed)
    kinds = ["good"] * good + ["neutral"] * neutral + ["harmful"] * worse + ["broken"] * broken + ["hanging"] * hanging
    rng.shuffle(kinds)
    edits, breaks = [], ["not_there()", "= 1", "float('nan')"]
    for number, kind in enumerate(kinds):
        text = {
            "good": f"{0.25 * 1.45 ** rng.uniform(0, 6.7):.3f}",
            "neutral": f"{rng.uniform(-0.02, 0.02):.3f}",
            "harmful": f"-{rng.uniform(0.5, 4):.3f}",
            "broken": breaks[number % len(breaks)],
            "hanging": HANGS,
        }[kind]
        edits.append(Edit(kind, switch(number), text))
    return edits


class Model:
    """A scripted model that hands out edits in their order, in the words that each system wants to hear."""

    def __init__(self, system: str, edits: Sequence[Edit], *, refuses_every: int = 0) -> None:
        self.system, self._edits, self._refuses_every = system, edits, refuses_every
        self._lock, self._calls, self.told = Lock(), 0, 0

    def __call__(self, asked: Asked) -> Answer:
        """The next edit; from time to time an error, where that is wanted. After the last edit the last one again."""
        with self._lock:
            self._calls += 1
            if self._refuses_every and self._calls % self._refuses_every == 0:
                return Refusal(500, "the scripted model is out of order")
            edit = self._edits[min(self.told, len(self._edits) - 1)]
            self.told += 1
        return Reply(answer(self.system, edit, asked.prompt))


def answer(system: str, edit: Edit, prompt: str) -> str:
    """An edit in a system's own words; `prompt` is only read where a system wants the whole program."""
    block = f"<<<<<<< SEARCH\n{edit.before}\n=======\n{edit.after}\n>>>>>>> REPLACE\n"
    words = f"set {edit.switch} to {edit.text}"
    if system == "nightlab":
        return f"HYPOTHESIS: {words}\n\nprogram.py\n{block}"
    if system == "openevolve":
        return f"I {words}.\n\n{block}"
    if system == "shinka":
        name = f"set_{edit.switch.lower()}"
        return f"<NAME>\n{name}\n</NAME>\n\n<DESCRIPTION>\n{words}\n</DESCRIPTION>\n\n<DIFF>\n{block}\n</DIFF>\n"
    shown = next((text for text in _FENCE.findall(prompt) if "SWITCH_000" in text), "")
    return f"I {words}.\n\n```\n{shown.replace(edit.before + chr(10), edit.after + chr(10))}```\n"


EVALUATE = '''"""Evaluate a program: take a while, add noise, and write down when. One for all systems."""

import argparse
import hashlib
import json
import math
import os
import random
import time

PLAN = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "plan.json")))


def noted(**words):
    """One line in the log that all evaluations share."""
    line = json.dumps({"at": time.time(), "pid": os.getpid(), **words}) + "\\n"
    log = os.open(PLAN["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, line.encode())
    os.close(log)


def scored(source):
    """The score of a program."""
    key = hashlib.blake2b(source.strip().encode(), digest_size=8).hexdigest()
    noted(event="begin", key=key)
    try:
        time.sleep(PLAN["seconds"])
        space = {"__name__": "program"}
        exec(compile(source, "program.py", "exec"), space)
        value = float(space["score"]()) + random.SystemRandom().gauss(0, 1) * PLAN["sigma"]
        if not math.isfinite(value):
            raise ValueError(f"the score is {value}")
    except BaseException as error:
        noted(event="end", key=key, error=type(error).__name__)
        raise
    noted(event="end", key=key, value=value)
    return value


def evaluate(program_path):
    """As OpenEvolve calls it."""
    with open(program_path) as file:
        return {"combined_score": scored(file.read())}


def main():
    """As ShinkaEvolve calls it: two files of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program_path")
    parser.add_argument("--results_dir")
    told = parser.parse_args()
    os.makedirs(told.results_dir, exist_ok=True)
    metrics, error = {"combined_score": 0.0}, None
    try:
        metrics = evaluate(told.program_path)
    except Exception as trouble:
        error = f"{type(trouble).__name__}: {trouble}"
    for name, words in {"metrics": metrics, "correct": {"correct": error is None, "error": error}}.items():
        with open(os.path.join(told.results_dir, f"{name}.json"), "w") as file:
            json.dump(words, file)


if __name__ == "__main__":
    main()
'''

DOCUMENTED = '''"""The same evaluation in ShinkaEvolve's own form: its helper runs the program and writes the files."""

import argparse
import inspect
import sys

import evaluate
from shinka.core import run_shinka_eval


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program_path")
    parser.add_argument("--results_dir")
    told = parser.parse_args()
    run_shinka_eval(
        program_path=told.program_path,
        results_dir=told.results_dir,
        experiment_fn_name="score",
        num_runs=1,
        get_experiment_kwargs=lambda number: {},
        aggregate_metrics_fn=lambda results: evaluate.evaluate(told.program_path),
    )
'''

OURS = """\
import os, random, time
time.sleep({seconds})
import program
noise = random.Random(int(os.environ["NIGHTLAB_SEED"])).gauss(0, 1) * {sigma}
print("score:", program.score() + noise)
"""
"""The same evaluation as a command, for Nightlab: the process it runs in is part of what is timed."""
