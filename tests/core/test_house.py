"""The house keeps its floors: what may import what, how large the core is, what a broad handler may stand for."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nightlab

HOUSE = Path(nightlab.__file__).parent
FLOORS = [
    ["errors", "words", "values"],
    ["stats", "simplicity", "decide", "prune", "task", "proposer", "processes"],
    [
        "ledger",
        "workspace",
        "landlock",
        "sandbox",
        "shim",
        "executor",
        "artifact",
        "judge",
        "evaluator",
        "bandit",
        "plugins",
    ],
    ["lineage", "noise", "search", "facts", "runner", "loop", "remeasure", "pruner", "audit"],
]
"""The core. A module imports from lower floors, and on its own floor only from the ones named before it."""
SHELF = ["readings", "place", "insights", "exports", "report", "control", "evidence", "observation", "transcript"]
"""Readings of a study on disk, and the wishes left for it: what the edges and the roof take from; in that order."""
EDGES = ["tuner", "agents", "tasks", "dashboard", "testing", "setup", "doctor", "notify", "mirrors"]
EDGES += ["swarm", "live", "executors", "foreign"]
ROOF = [
    "sealed",
    "smoke",
    "study",
    "crew",
    "trial",
    "mcp_server",
    "check",
    "bench",
    "slotsbench",
    "judgebench",
    "cheatbench",
    "pagebench",
    "peersbench",
    "swarmnight",
    "swarmbench",
    "livebench",
    "liveload",
    "replay",
    "finish",
    "cli",
    "__main__",
]
"""What puts the parts together."""


@cache
def parsed(path: Path) -> ast.Module:
    """A module's tree, read once for all questions."""
    return ast.parse(path.read_text())


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(HOUSE.rglob("*.py")):
        inside = path.relative_to(HOUSE)
        is_template = inside.parts[0] == "tasks" and len(inside.parts) > 2
        if inside != Path("__init__.py") and not is_template:
            yield inside.parts[0].removesuffix(".py"), path


def imports(path: Path) -> set[str]:
    """The rooms of the house that a module imports from."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nightlab"):
            names = [node.module] if node.module != "nightlab" else [f"nightlab.{alias.name}" for alias in node.names]
            found |= {name.split(".")[1] for name in names if name}
    return found - {"__version__"}


def test_imports_only_point_down() -> None:
    core = [room for floor in FLOORS for room in floor]
    for room, path in modules():
        if room in core:
            allowed = set(core[: core.index(room)])
        elif room in SHELF:
            allowed = {*core, *SHELF[: SHELF.index(room)], room}
        elif room in EDGES:
            allowed = {*core, *SHELF, room}
        else:
            allowed = {*core, *SHELF, *EDGES, *ROOF}
        assert imports(path) <= allowed, f"{path.name} imports {imports(path) - allowed}"


def test_every_room_has_its_floor() -> None:
    assert {room for room, _ in modules()} == {room for floor in FLOORS for room in floor} | {*SHELF, *EDGES, *ROOF}


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    tree = parsed(path)
    words = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = path.read_text().splitlines()
    return sum(
        1 for n, line in enumerate(lines, 1) if line.strip() and not line.strip().startswith("#") and n not in words
    )


def test_the_core_can_be_read_in_an_hour() -> None:
    """The jail and the shim, which stand around a stranger's code, are a trade of their own; they are counted apart."""
    counts = {room: code_lines(path) for room, path in modules() if any(room in floor for floor in FLOORS)}
    jail = sum(counts.pop(room) for room in ("sandbox", "landlock", "shim", "processes"))

    print(f"the core holds {sum(counts.values())} lines of code, the jail and the shim {jail}")
    assert sum(counts.values()) <= 4650
    assert jail <= 1200


def test_no_function_is_longer_than_fifty_lines() -> None:
    for _, path in modules():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, f"{path.name}: {node.name}"


def broad_handlers(tree: ast.AST) -> Iterator[str]:
    """The functions that catch everything and do not raise it again."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler):
                    name = getattr(node.type, "id", "") if node.type else "bare"
                    raises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                    if name in ("bare", "Exception", "BaseException") and not raises:
                        yield function.name


def test_everything_is_caught_only_at_the_wall_around_strangers_code() -> None:
    found = {(room, name) for room, path in modules() for name in broad_handlers(parsed(path))}

    assert found == {("proposer", "walled")}


def test_every_public_name_is_there() -> None:
    for name in nightlab.__all__:
        assert getattr(nightlab, name) is not None
    assert {"Evidence", "Race", "Greedy", "Ledger", "Loop", "Proposal", "Proposer", "Task"} <= set(nightlab.__all__)


def test_importing_does_nothing_but_define(tmp_path: Path, monkeypatch: object) -> None:
    before = set(tmp_path.iterdir())
    for room, path in modules():
        if room not in ("__main__",):
            name = ".".join(["nightlab", *path.relative_to(HOUSE).with_suffix("").parts]).removesuffix(".__init__")
            if name != "nightlab.executors.ferry" or find_spec("ray"):  # Ray's driver, a program of its own
                importlib.import_module(name)
    assert set(tmp_path.iterdir()) == before
