"""The whole bench, part by part: results go to one folder, and what stands there is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nightlab import __version__
from nightlab.peersbench import constants, faults, page, systems, throughput, work

PARTS = ("grid", "alone", "constants", "bank", "faults")
_LIMIT = 180.0
Say = Callable[[str], None]


def play(
    cache: Path, *, parts: Sequence[str], only: Sequence[str], experiments: int, seeds: int, banks: int, say: Say
) -> dict[str, Any]:
    """Measure the parts that were asked for; returns all results there are. Environments are made in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    results = read(cache)
    results["machine"] = page.machine()
    results["versions"] = {**results.get("versions", {}), "nightlab": __version__, **_installed(cache, parts, only)}
    if "grid" in parts:
        results["grid"] = _told(throughput.grid(cache, experiments, only=only, limit=_LIMIT), say)
    if "alone" in parts:
        results["alone"] = _told(throughput.alone(cache, experiments, only=only, limit=_LIMIT), say)
    if "bank" in parts:
        results["bank"] = _told((faults.replayed(cache, one, n, limit=90.0) for n in range(banks) for one in only), say)
    if "faults" in parts:
        results["killed"] = _told((faults.killed(cache, one, limit=60.0) for one in only), say)
        results["filled"] = _told((row for one in only if (row := faults.filled(cache, one, limit=60.0))), say)
        if only and not results["filled"]:
            say("a full disk is left out: only root may mount a small one")
        results["refused"] = _told((faults.refused(cache, one, limit=90.0) for one in only), say)
    (cache / "results.json").write_text(json.dumps(results, indent=1))
    if "constants" in parts:
        _turn(cache, seeds, say)
    return results


def read(cache: Path) -> dict[str, Any]:
    """The results so far."""
    path = cache / "results.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def found(cache: Path) -> list[constants.Found]:
    """The searches for constants so far."""
    return constants.read(cache / "constants.jsonl")


def _told(rows: Iterator[Mapping[str, Any]], say: Say) -> list[dict[str, Any]]:
    kept = []
    for row in rows:
        kept.append(dict(row))
        say(json.dumps(row))
    return kept


def _installed(cache: Path, parts: Sequence[str], only: Sequence[str]) -> dict[str, str]:
    """The versions of what is about to be measured."""
    names = [name for name in work.SYSTEMS[1:] if name in only] if set(parts) - {"constants"} else []
    names += ["science"] if "constants" in parts else []
    found: dict[str, str] = {}
    for name in names:
        found |= systems.versions(systems.environment(cache, name), systems.PACKAGES[name])
    return found


def _turn(cache: Path, seeds: int, say: Say) -> None:
    with closing(constants.Science(systems.environment(cache, "science"), cache / "kept")) as science:
        searches = constants.bench(
            science,
            cache / "constants.jsonl",
            scripts=constants.SCRIPTS,
            methods=(constants.OURS, *constants.OPTUNA),
            seeds=seeds,
            most=max(constants.MARKS),
        )
        for one in searches:
            say(f"{one.script}, {one.method}, seed {one.seed}, {one.runs} runs: {one.true:.5g}")
