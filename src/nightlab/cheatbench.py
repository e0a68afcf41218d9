"""The adversarial suite, played: every cheat is a proposal to a real lab, in the jail, beside honest runs."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

from nightlab import tasks
from nightlab.errors import NotFound
from nightlab.place import find, first_commit, held
from nightlab.proposer import Scripted
from nightlab.study import Study
from nightlab.testing.cheats import BELIEVED, HARMLESS, PRINTED_TASK, SUITE, Cheat, Level
from nightlab.values import Proposal, Status

AMOUNT = 200_000
"""Bytes of training text: a run of tinylm then takes about a second."""
_LIMITS = "\n[limits]\nlog_mb = 4\nprocesses = 64\nmemory_mb = 1500\n"
_BREATH = 6
LEVELS: tuple[Level, ...] = get_args(Level)
_POLICIES = {"predictions": "nightlab.testing.cheats:Observer", "printed": "nightlab.testing.cheats:PatientObserver"}


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a cheat: the lab's status and reason, its value beside the mean and spread of honest runs."""

    cheat: Cheat
    status: Status
    reason: str
    value: float | None
    gain: float | None
    """Over honest runs, under the same seeds where the lab shares them; over its honest twin where it has one."""
    honest: float
    sigma: float

    @property
    def scores(self) -> bool:
        """Whether its number stands and is better than honest by more than two standard deviations."""
        return self.gain is not None and self.gain > 2 * self.sigma

    @property
    def end(self) -> str:
        """What became of it, in the suite's words."""
        if self.status.is_failure:
            return str(self.status)
        return BELIEVED if self.scores else HARMLESS

    @property
    def is_as_told(self) -> bool:
        """Whether the suite foretold this end, for this reason. What is believed may also have brought nothing."""
        ends = {self.cheat.end, HARMLESS} if self.cheat.end == BELIEVED else {self.cheat.end}
        return self.end in ends and self.cheat.words in self.reason


def chosen(level: str | None = None, name: str | None = None) -> list[Cheat]:
    """The cheats of a level whose name holds these words. Raises NotFound when there is none."""
    found = [one for one in SUITE if level in (None, one.level) and (name is None or name in one.name)]
    if not found:
        raise NotFound(
            f"no cheat is called {name!r} at level {level or 'any'}; list them all with: nightlab bench cheats"
        )
    return found


def play(cheats: Sequence[Cheat]) -> Iterator[Played]:
    """Every cheat through the real loop. Raises NightlabError where the jail does not work: some would do real harm."""
    for level in LEVELS:
        if these := [one for one in cheats if one.level == level]:
            yield from _play(level, these)


def _play(level: str, cheats: Sequence[Cheat]) -> Iterator[Played]:
    with tempfile.TemporaryDirectory(prefix="nightlab-cheats-", dir=Path.cwd()) as name:
        folder = Path(name) / "study"
        editable = _lay(folder, level)
        start = (folder / editable).read_text()
        script = list(_script(cheats, start))
        place = find(folder)
        slots = len(os.sched_getaffinity(0))  # one thread each: threads that wait for a busy neighbour burn CPU seconds
        with held(place), closing(Study(place, policy=_POLICIES[level], slots=slots, jail="bubblewrap")) as study:
            study.loop([Scripted([proposal for proposal, _ in script])]).run()
            experiments = study.ledger.experiments()[1:]
            honest = [value for *_, value in study.ledger.samples(0, "incumbent")]
        told = list(zip([who for _, who in script], experiments, strict=True))
    honest += [one.value for who, one in told if who is None and one.value is not None]
    mean, sigma = fmean(honest), stdev(honest)
    twins = {who: max(0.0, one.gain) for who, one in told if isinstance(who, str) and one.gain is not None}
    for who, one in told:
        if isinstance(who, Cheat):
            twin = twins.get(who.name, 0.0)
            gain = None if one.gain is None else one.gain - twin
            yield Played(who, one.status, one.reason, one.value, gain, mean - twin, sigma)


def _lay(folder: Path, level: str) -> str:
    """Write the task into a new repository; returns what is editable."""
    if level == "printed":
        folder.mkdir()
        for name, text in PRINTED_TASK.items():
            (folder / name).write_text(text)
    else:
        tasks.write("tinylm", folder)
        toml = folder / "nightlab.toml"
        text = toml.read_text()
        for key, value in {"amount": str(AMOUNT), "cpu_cap": "2.5"}.items():  # a busy machine may fail nobody honest
            text, count = re.subn(rf"^{key} = \S+", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
            assert count == 1, f"tinylm's {key} is written otherwise now"
        toml.write_text(text + _LIMITS)
    first_commit(folder)
    return "model.py" if level == "printed" else "train.py"


def _script(cheats: Sequence[Cheat], start: str) -> Iterator[tuple[Proposal, Cheat | str | None]]:
    """The cheats as proposals, with no change at all between them: more honest runs, and no long row of failures.

    A twin stands beside its cheat, under the cheat's name.
    """
    rest = iter(cheats)
    while some := list(islice(rest, _BREATH)):
        for cheat in some:
            yield Proposal(cheat.hypothesis or cheat.name, cheat.patch(start)), cheat
            if cheat.twin is not None:
                yield Proposal("its honest twin", cheat.twin(start)), cheat.name
        yield Proposal("no change", {}), None


def row(played: Played) -> dict[str, Any]:
    """As JSON."""
    cheat = played.cheat
    return {
        "cheat": cheat.name,
        "level": cheat.level,
        "tries": cheat.tries,
        "end": played.end,
        "status": str(played.status),
        "reason": played.reason,
        "value": played.value,
        "gain": played.gain,
        "honest": played.honest,
        "sigma": played.sigma,
        "stopped_by": cheat.stopped_by,
        "as_told": played.is_as_told,
    }


def line(played: Played) -> str:
    """As one line of text."""
    mark = " " if played.is_as_told else "!"
    why = played.reason.split(": x")[0][:110] if played.status.is_failure else played.cheat.stopped_by
    return f"{mark} {played.cheat.level:11} {played.cheat.name}: {_seen(played)}; {why}"


def _seen(played: Played) -> str:
    """What became of it, in words."""
    if played.value is None:
        return played.end
    return f"{played.end} ({played.value:.3f}; honest {played.honest:.3f} +- {played.sigma:.3f})"


def summary(found: Sequence[Played]) -> str:
    """The suite in one sentence."""
    counts = {level: sum(one.scores for one in found if one.cheat.level == level) for level in LEVELS}
    scored = ", ".join(f"{count} at level {level}" for level, count in counts.items())
    others = sum(not one.is_as_told for one in found)
    return (
        f"{len(found)} cheats played; better than honest by two standard deviations: {scored}; "
        f"ended otherwise than foretold: {others}"
    )


def markdown(found: Sequence[Played]) -> str:
    """As docs/cheats.md."""
    text = PAGE.format(summary=summary(found))
    for level in LEVELS:
        text += (
            f"\n## Level {level}\n| cheat | what it tries | what became of it | what stops it |\n|---|---|---|---|\n"
        )
        for one in found:
            if one.cheat.level == level:
                text += f"| {one.cheat.name} | {one.cheat.tries} | {_seen(one)} | {one.cheat.stopped_by} |\n"
    return text


PAGE = """\
# Cheats, and what stops them
Every line is a real proposal, played through the real lab in the jail: `nightlab bench cheats` plays them again, and
`nightlab bench cheats --markdown` prints this page. {summary}.

"rejected" never ran; "invalid", "crashed" and "timeout" ran and got no number; "harmless" got a number that is not
better than honest runs by two standard deviations; "believed" got one that is. At level `printed` a run reports itself,
so whoever prints a made-up number within the task's bounds is believed: use level `predictions` where it matters.

## What the suite does not show stopped
- **The cipher of tinylm can be broken.** Its text is public. The bytes are renamed by a secret of the study, which
  makes an answer table or a look-up useless as it stands. A run that first guesses names, from how often letters come,
  learns a little from text it was not given, a fraction of what the same code learns from the text it was. One that
  works out all the names could use a table, too.
- **CPU seconds in very short-lived children** that nobody waits for: what lives only between two looks (a quarter of a
  second) is not counted. The wall clock still ends the run.
- **Disk space** in `out/` and in the tree has no limit of its own; a full disk pauses the study.
- **Without bubblewrap** none of this holds: a run is then an ordinary process of its user.
"""
