"""Set-up: a nightlab.toml for a script that is already there; what cannot be detected is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from nightlab.errors import BadTask
from nightlab.task import PROGRAM_FILE, TASK_FILE, parse

_HIGHER = ("acc", "accuracy", "score", "reward", "f1", "auc", "throughput", "speed", "win")
_PRINTS = re.compile(r"""print\(\s*(?:rf|fr|f)?["'](?:METRIC\s+)?([A-Za-z][\w.]*)\s*[:=]\s*[{"']""")
_PROGRAM = """# {metric}

Make {metric} {direction}. What may change: {editable}. Everything else is frozen.
Changing how the score is measured disqualifies the run; it is measured elsewhere.
"""


def setup(
    folder: Path,
    *,
    run: str | None,
    metric: str | None,
    direction: str | None,
    editable: Sequence[str] | None,
    ask: Callable[..., str] | None,
) -> list[str]:
    """Write nightlab.toml and, where there is none, program.md. Raises BadTask saying what to add."""
    if (folder / TASK_FILE).exists():
        raise BadTask(f"{folder / TASK_FILE} exists already; edit it, or remove it first")
    script = _script(folder)
    run = run or (f"python {script}" if script else _asked(ask, "What is run", "--run", "python train.py"))
    source = _source(folder, run)
    metric = (
        metric or _metric(source) or _asked(ask, "The metric's name, as the script prints it", "--metric", "val_loss")
    )
    direction = direction or _direction(metric) or _asked(ask, "Is lower or higher better", "--direction", "lower")
    files = list(editable or []) or ([word for word in run.split() if word.endswith(".py")])
    if not files:
        files = [_asked(ask, "Which file may change", "--editable", "train.py")]
    text = _toml(run, files, metric, direction)
    parse(text)
    (folder / TASK_FILE).write_text(text, encoding="utf-8")
    written = [TASK_FILE]
    if not (folder / PROGRAM_FILE).exists():
        words = _PROGRAM.format(metric=metric, direction=direction, editable=", ".join(files))
        (folder / PROGRAM_FILE).write_text(words, encoding="utf-8")
        written.append(PROGRAM_FILE)
    return written


def _script(folder: Path) -> str | None:
    names = [path.name for path in sorted(folder.glob("*.py"))]
    likely = [name for name in ("train.py", "main.py", "run.py") if name in names]
    return likely[0] if likely else names[0] if len(names) == 1 else None


def _source(folder: Path, run: str) -> str:
    scripts = [folder / word for word in run.split() if word.endswith(".py")]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in scripts if path.is_file())


def _metric(source: str) -> str | None:
    """The last `print("name: ...")`, since results come last."""
    found = _PRINTS.findall(source)
    return found[-1] if found else None


def _direction(metric: str) -> str | None:
    if any(
        word in metric.lower()
        for word in ("loss", "error", "bpb", "perplexity", "time", "bits", "latency", "rmse", "mae")
    ):
        return "lower"
    return "higher" if any(word in metric.lower() for word in _HIGHER) else None


def _asked(ask: Callable[..., str] | None, question: str, option: str, example: str) -> str:
    if ask is None:
        raise BadTask(f"cannot tell: {question.lower()}? Say it with {option}, for example {option} {example!r}")
    return ask(question)


def _toml(run: str, editable: Sequence[str], metric: str, direction: str) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return f"""[task]
run = {quoted(run)}
editable = [{", ".join(map(quoted, editable))}]      # what may change; everything else is frozen

[metric]
name = {quoted(metric)}              # the run prints one line: {metric}: number
direction = {quoted(direction)}
level = "printed"              # self-reported; see the README for what this cannot see

[budget]
kind = "work"                  # the script decides how much it does; or: cpu, wall (seconds)
cpu_cap = 2.0                  # a run may use so many times the baseline's CPU seconds
"""
