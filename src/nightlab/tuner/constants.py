"""The constants arm: one knob a step further, or several where the sampler expects the best."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from random import Random

from nightlab.proposer import Context
from nightlab.tuner import space
from nightlab.tuner.memory import Memory
from nightlab.tuner.space import Knob, Number
from nightlab.values import Experiment, Proposal, Status, derived_seed

ATTEMPTS = 20
TOLD = 300
"""Of this many experiments at most: the sampler's time grows with them, its advice no longer does."""
STEP_SHARE = 0.1
"""How often a single step is taken rather than the sampler asked. On bowls of 18 knobs under noise a tenth of the time
and three tenths came to the same: a sixteenth of the height was left after 100 runs."""
PATIENCE = 10
"""So many runs without a keep, and the sampler looks beyond the ends of the ranges as well. Where it always did, what
lies outside cost more runs than it was worth: tinylm was at 3.63 +- 0.03 after 40 runs in place of 3.54 +- 0.02."""

Turn = Mapping[str, Number]
"""Key -> new value of the knobs that move."""


class Constants:
    """Turns numbers: where a model of the score expects most, and now and then one of them a step further."""

    name = "tuner.constants"

    def __init__(self) -> None:
        self._memory = Memory()
        self._origins: dict[str, tuple[int, Number]] = {}
        """Key -> the first experiment that knew it, and what its value was before."""

    def learn(self, experiment: Experiment) -> None:
        """Remember what says something about constants, whichever arm tried it."""
        if experiment.facts.get("constants") and experiment.status is not Status.REJECTED:
            self._memory.learn(experiment)
            before = {key: old for key, (old, _) in experiment.facts.get("turned", {}).items()}
            for key, value in {**experiment.facts["constants"], **before}.items():
                self._origins[key] = min(self._origins.get(key, (experiment.id, value)), (experiment.id, value))

    def propose(self, context: Context) -> Proposal | None:
        """Where the sampler looks next, or one knob a step further."""
        knobs = [k.since(self._origins.get(k.key, (0, k.value))[1]) for k in space.knobs(context.files)]
        if not knobs:
            return None
        told, further = self._memory.latest(TOLD), [k.beyond() for k in knobs]
        reached = further if _is_stuck(told) else knobs
        rng = Random(derived_seed(context.seed, self.name, context.number))
        busy = {str(key) for facts in context.racing for key in facts.get("turned", ())}
        steps, asks = partial(ratchet, further, told, rng, busy), partial(sampled, context, reached, told, rng)
        ways = (steps, asks) if rng.random() < STEP_SHARE else (asks, steps)
        turns = (turn for way in ways for turn in islice(way(), ATTEMPTS // 2))
        return next((p for turn in turns if (p := _proposal(context, knobs, turn))), None)


def _is_stuck(told: Sequence[Experiment]) -> bool:
    """Whether nothing has been kept for a while."""
    return len(told) >= PATIENCE and all(one.status is not Status.KEPT for one in told[-PATIENCE:])


def _proposal(context: Context, knobs: Sequence[Knob], turn: Turn) -> Proposal | None:
    moved = [k for k in knobs if turn.get(k.key, k.value) != k.value]
    files = space.turned(context.files, {k.key: turn[k.key] for k in moved})
    if not files or context.was_tried(files):
        return None
    facts = {
        "constants": {k.key: turn.get(k.key, k.value) for k in knobs},
        "turned": {k.key: [k.value, turn[k.key]] for k in moved},
    }
    return Proposal(told_in_words(moved, turn), files, facts)


def told_in_words(moved: Sequence[Knob], turn: Turn) -> str:
    """The hypothesis: what is raised, lowered or switched."""
    if len(moved) > 1:
        return ", ".join(f"{k.label} {k.value} → {turn[k.key]}" for k in moved)
    knob, new = moved[0], turn[moved[0].key]
    if isinstance(new, bool):
        return f"turn {knob.label} {'on' if new else 'off'}"
    ratio = new / knob.value if knob.value else 0
    verb = {2.0: "double", 0.5: "halve"}.get(ratio, "raise" if new > knob.value else "lower")
    return f"{verb} {knob.label} from {knob.value} to {new}"


# --- one knob at a time -----------------------------------------------------------------------------------------------


def ratchet(
    knobs: Sequence[Knob], told: Sequence[Experiment], rng: Random, busy: Collection[str] = ()
) -> Iterator[Turn]:
    """Single steps: onward where the last one paid, then the knobs that have waited longest; those that are being
    turned at this moment come last."""
    trails = _trails(knobs, told)

    def waiting(knob: Knob) -> tuple[bool, int, float]:
        trail = trails[knob.key]
        return (knob.key in busy, trail[-1].id if trail else -1, rng.random())

    for knob in sorted(knobs, key=waiting):
        place = _next_place(knob, trails[knob.key], rng)
        yield {knob.key: _moved(knob, place)}


def _trails(knobs: Sequence[Knob], told: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    """Key -> the experiments that turned this knob and nothing else."""
    trails: dict[str, list[Experiment]] = {k.key: [] for k in knobs}
    for experiment in told:
        keys = list(experiment.facts.get("turned", ()))
        if len(keys) == 1 and keys[0] in trails:
            trails[keys[0]].append(experiment)
    return trails


def _next_place(knob: Knob, trail: Sequence[Experiment], rng: Random) -> float:
    """On in the direction that was kept; back after a loss; half as far once both directions lost."""
    if knob.kind == "switch":
        return 1 - knob.place
    if not trail:
        return knob.place + rng.choice((-1, 1)) * knob.step * rng.choice((0.4, 1.0))
    step = _step(knob, trail[-1])
    if trail[-1].status is Status.KEPT:
        return knob.place + step * 1.2
    both = len(trail) > 1 and trail[-2].status is not Status.KEPT and _step(knob, trail[-2]) * step < 0
    return knob.place - step * (rng.uniform(0.3, 0.7) if both else 1.0)


def _step(knob: Knob, experiment: Experiment) -> float:
    old, new = experiment.facts["turned"][knob.key]
    return (knob.place_of(new) - knob.place_of(old)) or knob.step


def _moved(knob: Knob, place: float) -> Number:
    """The value there; where that is no move, the next whole number or a full step, onward or else back."""
    on = 1 if place > knob.place else -1
    whole = [knob.place_of(knob.value + on), knob.place_of(knob.value - on)] if isinstance(knob.value, int) else []
    places = [place, *whole, knob.place + on * knob.step, knob.place - on * knob.step]
    return next((value for value in map(knob.at, places) if value != knob.value), knob.value)


# --- several at once --------------------------------------------------------------------------------------------------


def sampled(context: Context, knobs: Sequence[Knob], told: Sequence[Experiment], rng: Random) -> Iterator[Turn]:
    """What the sampler asks for."""
    from nightlab.tuner.sampler import places

    for asked in places(context, knobs, told, rng.randrange(2**31)):
        yield {k.key: k.at(asked[k.key]) for k in knobs}
