"""Replay: what an old night's record tells about its own noise, and which of its keeps that noise may explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from nightlab.errors import BadTask
from nightlab.exports import read_karpathy
from nightlab.ledger import Ledger
from nightlab.lineage import LAB
from nightlab.stats import Spread
from nightlab.values import Experiment, Status, improvement

_CORE = 0.25
_FEWEST, _FEWEST_BESIDE = 12, 4
_PROBABLE_ERROR = NormalDist().inv_cdf(0.75)


def replay(path: Path) -> dict[str, Any]:
    """The noise of one run and every keep with its grade, of a results.tsv or of a ledger; doubtful ones say why.

    In a results.tsv all are E1, as nothing was run twice.
    """
    return _ledger(path) if _is_ledger(path) else _results(path)


def _is_ledger(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _ledger(path: Path) -> dict[str, Any]:
    """What a study of ours kept, judged once more by all it knows by now of its own noise."""
    if int.from_bytes(path.read_bytes()[60:64], "big") == 0:  # SQLite's user_version; opening would make it a ledger
        raise BadTask(f"{path} is an SQLite file, but no ledger; a study's is at .nightlab/ledger.sqlite")
    with closing(Ledger(path)) as ledger:
        study, noise = ledger.study() or {}, Spread()
        for number, _, value in ledger.repeats():
            noise.add(number, value)
        once = (Status.KEPT, Status.PRUNED, Status.REVERTED)
        kept = [one for one in ledger.experiments() if (one.status in once and one.proposer != LAB) or one.id == 0]
        sigma = noise.sigma or 0.0
        keeps = [_own_keep(one, sigma) for one in kept]
        return {
            "file": str(path),
            "metric": study.get("metric"),
            "experiments": sum(ledger.counts().values()),
            "noise": sigma,
            "doubtful": sum(one["is_doubtful"] for one in keeps),
            "keeps": keeps,
        }


def _own_keep(one: Experiment, noise: float) -> dict[str, Any]:
    """One keep of a ledger: doubtful where it fell away since, or where its gain is within its own error."""
    error = _PROBABLE_ERROR * noise if one.grade in (None, "E1") else one.stderr or 0.0
    why = ""
    if one.status is not Status.KEPT:
        why = one.reason
    elif one.gain is not None and one.gain < error:
        why = f"gain {one.gain:.2g}: its own noise explains up to {error:.2g}"
    told = {"commit": (one.commit or "")[:7], "description": one.hypothesis, "value": one.value, "gain": one.gain}
    return told | {"grade": one.grade or "E1", "is_doubtful": bool(why), "why": why}


def _results(path: Path) -> dict[str, Any]:
    stretches = _stretches(path)
    noise = estimate_noise([[_value(row) for row in discards] for _, discards in stretches])
    if noise is None:
        raise BadTask(
            f"{path}: too few discards to tell its noise; at least {_FEWEST} are needed that were tried against an "
            f"incumbent with {_FEWEST_BESIDE} or more"
        )
    keeps = [_keep(row, before, noise) for (row, _), before in zip(stretches, [None, *stretches], strict=False)]
    return {
        "file": str(path),
        "metric": stretches[0][0]["metric"],
        "experiments": len(list(read_karpathy(path))),
        "noise": noise,
        "doubtful": sum(one["is_doubtful"] for one in keeps),
        "keeps": keeps,
    }


def estimate_noise(stretches: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation of one run, from discards alone; None where they are too few.

    No tree was run twice, so changes that did nothing have to serve: against one incumbent they all repeat it. Taken
    from the median of their stretch (the incumbent's own number is a lucky one), they are the dense core between the
    good and the harmful. The core is the shortest interval that holds a quarter of all, which under a normal law is
    0.64 sigma wide. On simulated nights of 126 runs this comes out between 0.7 and 1.2 of the truth, give or take a
    quarter.
    """
    beside = [values for values in stretches if len(values) >= _FEWEST_BESIDE]
    gaps = sorted(value - median(values) for values in beside for value in values)
    if len(gaps) < _FEWEST:
        return None
    step = max(2, int(_CORE * len(gaps))) - 1
    width = min(far - near for near, far in zip(gaps, gaps[step:], strict=False))
    return width / (2 * NormalDist().inv_cdf(0.5 + _CORE / 2))


def _stretches(path: Path) -> list[tuple[Mapping[str, str], list[Mapping[str, str]]]]:
    """Each keep with the discards that were tried against it."""
    found: list[tuple[Mapping[str, str], list[Mapping[str, str]]]] = []
    for row in read_karpathy(path):
        if row["status"] == "keep":
            found.append((row, []))
        elif row["status"] == "discard" and found:
            found[-1][1].append(row)
    return found


def _keep(row: Mapping[str, str], before: tuple[Mapping[str, str], object] | None, noise: float) -> dict[str, Any]:
    """One keep as judged by the log's own noise. A run that was picked for being good is lucky by the probable error,
    0.67 sigma, half of the time: a smaller gain needs no other explanation."""
    gain = improvement("lower", _value(row), _value(before[0])) if before else None
    bar = _PROBABLE_ERROR * noise
    is_doubtful = gain is not None and gain < bar
    why = f"one run, gain {gain:.2g}: the noise of a selected run alone explains up to {bar:.2g}" if is_doubtful else ""
    told = {"commit": row["commit"], "description": row["description"], "value": _value(row), "gain": gain}
    return told | {"grade": "E1", "is_doubtful": is_doubtful, "why": why}


def _value(row: Mapping[str, str]) -> float:
    return float(row["val_bpb"])
