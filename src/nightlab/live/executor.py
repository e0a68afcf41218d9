"""The live executor: a run is a version of the copy shown to visitors beside the one it grew from, until that decides.

    submit   brand guard, a human's approval where that is asked for, an arm in the store, a new split
    watch    a few times a second: freeze, roll back, end what is decided, answer questions of the stream, split anew
    recover  an arm is served while the lab is down; who takes up the study again goes on watching it

Nothing of a job is executed: its command is the name of a page, its tree holds texts. What visitors see is decided by
the store alone, so that a lab that dies changes nothing for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nightlab.errors import Invalid, NightlabError, NotFound, StudyBusy
from nightlab.executor import collect
from nightlab.live import claims, labels
from nightlab.live.claims import HOUR, Asked
from nightlab.live.comparison import Comparison, Snapshot
from nightlab.live.deploying import checked, name_of
from nightlab.live.evaluator import LEFT
from nightlab.live.guards import must_freeze, must_roll_back
from nightlab.live.race import split as even_split
from nightlab.live.rendering import Copy
from nightlab.live.shrink import is_calibrated
from nightlab.live.store import Arm, Note, Store
from nightlab.task import Task
from nightlab.values import Clock, Cost, Job, Outcome, Run

ALONE = 100
"""Conversions after which the champion's own rate is known well enough."""
CONFIRMING = 3
"""Pairs that are compared for a claim only, at a time; more would take the traffic from new ideas."""
PROMISING, PATIENCE = 5.0, 3.0
"""The evidence for which a question is kept open after its run, and for how many horizons."""
_TICK = 0.1
_DOWN = ("rolled back", "frozen")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run is about: the arm shown, and the one it is compared with; None: it is seen by itself."""

    arm: int
    other: int | None


class Desk(Protocol):
    """What the executor asks of the study, from a thread of its own."""

    def wanted(self, run: str) -> Wanted:
        """Which arms a run is about."""

    def champion(self) -> int | None:
        """The experiment whose version is to be served; None before there is one."""

    def copy(self, number: int) -> Copy:
        """The copy of a kept experiment."""

    def approvals(self) -> list[tuple[int, bool]]:
        """What humans said since the last time: the experiment, and whether it may go out."""


@dataclass(slots=True)
class Race:
    """A run under way."""

    job: Job
    wanted: Wanted
    began: float
    future: Future[Run] = field(default_factory=Future)


class LiveExecutor:
    """Runs with visitors. It does not queue: whoever submits counts the slots."""

    level = "live"
    """In place of a jail: nothing is executed."""

    def __init__(
        self,
        slots: int,
        *,
        task: Task,
        store: Store,
        desk: Desk,
        clock: Clock,
        approve: bool = False,
        tick: float = _TICK,
    ) -> None:
        """With `approve` nothing goes out before a human has said so."""
        if task.live is None:
            raise NightlabError("a task without [live] has no visitors")
        self._slots, self.task, self.live, self.store = slots, task, task.live, store
        self._desk, self._clock, self._approve, self._tick = desk, clock, approve, tick
        self._races: dict[str, Race] = {}
        self._stands_for: dict[int, int] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def slots(self) -> int:
        """How many versions it is meant to race at a time."""
        return self._slots

    def submit(self, job: Job) -> Future[Run]:
        """Show a version to visitors, unless the brand guard says no."""
        with self._lock:
            self._need_open(job)
            shutil.rmtree(job.folder, ignore_errors=True)
            (job.folder / "out").mkdir(parents=True)
            race = Race(job, self._wanted(job), self._clock())
            race.future.set_running_or_notify_cancel()
            try:
                copy = checked(job.tree, self.task)
            except Invalid as problem:
                self._end(race, {"invalid": str(problem)})
                return race.future
            self._deploy(race, copy)
            self._enrol(race)
        return race.future

    def kill(self, run_id: str) -> None:
        """Take a version from the visitors: its future yields KILLED."""
        with self._lock:
            for race in [one for one in self._races.values() if one.job.id == run_id]:
                self._said(race, "gone")
                if race.wanted.other is not None:
                    self.store.set_status(race.wanted.arm, "ended", "taken from the visitors")
                    self._close_questions(race.wanted.arm)
                self._leave(race, Run(race.job.id, Outcome.KILLED, "taken from the visitors", race.job.folder))

    def recover(self, job: Job) -> Run | None:
        """What became of a job of an earlier lab; goes on watching while it is served."""
        with self._lock:
            race = self._races.get(str(job.folder))
            if race is None:
                run = collect(job)
                if run is not None:
                    return None if run.outcome is Outcome.KILLED else run
                said = self._said_of(job)
                if said is None or said.kind == "gone":
                    return None
                race = Race(job, self._wanted(job), float(said.body["began"]))
                race.future.set_running_or_notify_cancel()
                (job.folder / "out").mkdir(parents=True, exist_ok=True)
                if said.kind == "ended":
                    self._end(race, said.body["told"])
                else:
                    self._enrol(race)
        run = race.future.result()
        return None if run.outcome is Outcome.KILLED else run

    def close(self) -> None:
        """Stop watching. What is shown stays as it is, and whoever goes on with the study watches it again."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            for race in list(self._races.values()):
                self._leave(race, Run(race.job.id, Outcome.KILLED, "the lab has left", race.job.folder))

    # Going out

    def _need_open(self, job: Job) -> None:
        if self._over.is_set():
            raise NightlabError("this executor is closed; make a new one")
        if str(job.folder) in self._races:
            raise StudyBusy(f"{job.folder} belongs to a run that has not ended; wait for it with recover()")

    def _wanted(self, job: Job) -> Wanted:
        """Which arms a job is about, by their numbers in the store."""
        wanted = self._desk.wanted(job.id)
        return Wanted(wanted.arm, None if wanted.other is None else self._arm_of(wanted.other))

    def _arm_of(self, number: int) -> int:
        """The arm of a kept experiment: its own, or where the lab took something out again the one of the same copy."""
        arms = self.store.arms()
        if number in {arm.number for arm in arms}:
            return number
        if number not in self._stands_for:
            copy = self._desk.copy(number)
            same = [arm.number for arm in arms if arm.hash == name_of(copy) and arm.status not in _DOWN]
            if not same:
                self._put(number, None, copy, "serving", "kept by the lab")
            self._stands_for[number] = same[-1] if same else number
        return self._stands_for[number]

    def _deploy(self, race: Race, copy: Copy) -> None:
        """Write the arm down and the run's beginning, in that order: who finds the second finds the first."""
        arm, other = race.wanted.arm, race.wanted.other
        waits = self._approve and other is not None
        self._put(arm, other, copy, "waiting" if waits else "serving", "waits for approval" if waits else "")
        self._said(race, "run", began=race.began)
        if other is not None and not waits:
            claims.ask(self.store, arm, other, race.began)

    def _put(self, number: int, parent: int | None, copy: Copy, status: Any, reason: str) -> None:
        self.store.put_arm(Arm(number, parent, copy, name_of(copy), status, reason, self._clock()))

    def _said(self, race: Race, kind: str, **more: Any) -> None:
        self.store.note(kind, {"run": race.job.id, "token": race.job.token, **more})

    def _said_of(self, job: Job) -> Note | None:
        """The last thing that was written down of an attempt: it went out, was taken back, or ended."""
        notes = [note for note in self.store.notes() if note.kind in ("run", "gone", "ended")]
        return next((note for note in reversed(notes) if note.body.get("token") == job.token), None)

    def _enrol(self, race: Race) -> None:
        self._races[str(race.job.folder)] = race
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="visitors", daemon=True)
            self._thread.start()
        self._share()

    # Watching

    def _watch(self) -> None:
        while not self._over.wait(self._tick):
            try:
                with self._lock:
                    self._look()
            except NightlabError as error:  # the store or the ledger cannot be reached: whoever waits is told
                with self._lock:
                    races, self._races = list(self._races.values()), {}
                for race in races:
                    race.future.set_exception(error)
                return

    def _look(self) -> None:
        self._hear()
        now = self._clock()
        snapshot = Snapshot.of(self.store, self.live.outcome, self.live.guardrails)
        arms = {arm.number: arm for arm in self.store.arms()}
        for race in list(self._races.values()):
            arm = arms[race.wanted.arm]
            if arm.status == "waiting":
                continue
            if arm.status == "approved":
                self._go_out(race, now)
            elif race.wanted.other is None:
                self._look_alone(race, snapshot, now)
            elif arm.status != "serving" or arms[race.wanted.other].status in _DOWN:
                down = arm if arm.status != "serving" else arms[race.wanted.other]
                words = f"arm {down.number} {down.status}: {down.reason}"
                self._end(race, self._told(race, snapshot, now) | {"invalid": words})
            else:
                self._look_at(race, snapshot, now)
        self._answer(snapshot, now)
        self._share()

    def _hear(self) -> None:
        """What humans said of versions that wait."""
        for number, is_yes in self._desk.approvals():
            with contextlib.suppress(NotFound):
                if self.store.arm(number).status == "waiting":
                    words = "approved by a human" if is_yes else "refused by a human"
                    self.store.set_status(number, "approved" if is_yes else "ended", words)

    def _go_out(self, race: Race, now: float) -> None:
        race.began = now
        self.store.set_status(race.wanted.arm, "serving", "approved by a human")
        self._said(race, "run", began=now)
        claims.ask(self.store, race.wanted.arm, race.wanted.other or 0, now)

    def _look_alone(self, race: Race, snapshot: Snapshot, now: float) -> None:
        """The champion by itself: its rate, once it is known well enough or a day has passed."""
        side = snapshot.side(race.wanted.arm)
        waited = now - race.began >= self.live.serve_after_hours * HOUR and side.exposed > 0
        if side.converted >= ALONE or waited:
            self._end(race, {"exposed": side.exposed, "converted": side.converted, "hours": (now - race.began) / HOUR})

    def _look_at(self, race: Race, snapshot: Snapshot, now: float) -> None:
        """A challenger beside its parent: is anything decided?"""
        arm, other = race.wanted.arm, race.wanted.other or 0
        seen = snapshot.comparison(arm, other, self.live.effect)
        hours = (now - race.began) / HOUR
        if must_freeze(seen.ratio):
            words = f"the split was not kept (e {seen.ratio:.3g}), so that no number of it can be believed"
            self._finish(race, snapshot, now, "frozen", words, invalid=words)
        elif must_roll_back(seen.test, seen.guards.values()):
            worst = max([seen.test.worse, *seen.guards.values()])
            self._finish(race, snapshot, now, "rolled back", f"harm, e {worst:.3g}")
        elif (verdict := self._verdict(seen, hours)) is not None:
            status = "serving" if verdict == "better" else "ended"
            self._finish(race, snapshot, now, status, verdict)

    def _verdict(self, seen: Comparison, hours: float) -> str | None:
        """How a comparison ends; None while it goes on. What loses may go at once; what wins stays a day at least."""
        side = seen.champion
        rate = side.converted / side.exposed if side.converted >= ALONE else self.live.rate
        share = seen.candidate.exposed / seen.seen if seen.seen else 0.5
        horizon = labels.horizon(
            min(rate, 0.99 / (1 + self.live.effect)), self.live.effect, min(max(share, 0.05), 0.95)
        )
        verdict = labels.verdict(seen.test, seen.seen, horizon)
        if verdict == "more" or (verdict in ("better", "undecided") and hours < self.live.serve_after_hours):
            return None
        return verdict

    def _finish(self, race: Race, snapshot: Snapshot, now: float, status: Any, words: str, **more: str) -> None:
        """End a run: what is over is taken down; whether a winner is served is the policy's to say."""
        arm, other = race.wanted.arm, race.wanted.other or 0
        told = self._told(race, snapshot, now) | {"verdict": words} | more
        self._said(race, "ended", arm=arm, other=other, began=race.began, told=told)
        self.store.set_status(arm, status, words)
        self._end(race, told)

    def _told(self, race: Race, snapshot: Snapshot, now: float) -> dict[str, Any]:
        """What is left of a run: counts, evidence, and the contrast in units of the metric."""
        arm, other = race.wanted.arm, race.wanted.other or 0
        seen = snapshot.comparison(arm, other, self.live.effect)
        found = {
            "arm": arm,
            "other": other,
            "exposed": seen.candidate.exposed,
            "converted": seen.candidate.converted,
            "other_exposed": seen.champion.exposed,
            "other_converted": seen.champion.converted,
            "better": seen.test.better,
            "worse": max([seen.test.worse, *seen.guards.values()]),
            "ratio": seen.ratio,
            "hours": (now - race.began) / HOUR,
        }
        return found | {"contrast": self._contrast(seen, snapshot)}

    def _contrast(self, seen: Comparison, snapshot: Snapshot) -> dict[str, float | None]:
        """In units of the metric; drawn towards what is usual here, once that is known well enough."""
        rate = seen.champion.converted / seen.champion.exposed if seen.champion.exposed else self.live.rate
        worse = max([seen.test.worse, *seen.guards.values()])
        if seen.test.lift is None:
            return {"gain": 0.0, "stderr": rate, "better": seen.test.better, "worse": worse, "loss": None}
        lift, loss = seen.test.lift, None
        gain, stderr = rate * lift.lift, rate * (1 + lift.lift) * lift.stderr
        known = claims.channel(self.store, snapshot, self.live.effect, leave_out=seen.arm)
        if is_calibrated(known.lifts, self.live.effect):
            believed = known.prior.posterior(lift)
            gain, loss = rate * believed.lift, rate * believed.loss
        return {"gain": gain, "stderr": stderr, "better": seen.test.better, "worse": worse, "loss": loss}

    # Answering

    def _answer(self, snapshot: Snapshot, now: float) -> None:
        """Close the questions whose evidence suffices, and those that no more visitors will settle."""
        racing = {(race.wanted.arm, race.wanted.other) for race in self._races.values()}
        confirming = self._confirming()
        for one in (one for one in claims.asked(self.store) if one.ended is None):
            found = claims.evidence(snapshot, one, self.live.effect)
            is_settled = found >= one.needed and now - one.began >= self.live.claim_after_hours * HOUR
            goes_on = (one.arm, one.other) in racing or self._is_hopeful(one, found, snapshot, confirming)
            if is_settled or not goes_on:
                claims.answer(self.store, one, found, now)

    def _is_hopeful(self, one: Asked, found: float, snapshot: Snapshot, confirming: list[tuple[int, int]]) -> bool:
        """Whether more visitors may still settle a question whose run is over."""
        if found < PROMISING or (one.arm, one.other) not in confirming[-CONFIRMING:]:
            return False
        seen = sum(mine.exposed + theirs.exposed for _, mine, theirs in snapshot.pairs(one.arm, one.other))
        return seen < PATIENCE * labels.horizon(self.live.rate, self.live.effect)

    def _close_questions(self, arm: int) -> None:
        snapshot = Snapshot.of(self.store, self.live.outcome)
        for one in claims.asked(self.store):
            if one.arm == arm and one.ended is None:
                claims.answer(self.store, one, claims.evidence(snapshot, one, self.live.effect), self._clock())

    def _confirming(self) -> list[tuple[int, int]]:
        """Pairs with an open question whose run is over, the oldest first."""
        racing = {(race.wanted.arm, race.wanted.other) for race in self._races.values()}
        stopped = {arm.number for arm in self.store.arms() if arm.status in _DOWN}
        pairs = dict.fromkeys((one.arm, one.other) for one in claims.asked(self.store) if one.ended is None)
        return [pair for pair in pairs if pair not in racing and not stopped & set(pair)]

    # Splitting

    def _share(self) -> None:
        """Give every version that is raced or confirmed its part of new visitors, the champion the root of their count.

        Written only where it is another than the one in force.
        """
        champion = self._champion()
        if champion is None:
            return
        arms = {arm.number: arm for arm in self.store.arms()}
        wanted: list[tuple[int, int]] = list(self._confirming()[-CONFIRMING:])
        wanted += [
            (race.wanted.arm, race.wanted.other if race.wanted.other is not None else champion)
            for race in self._races.values()
            if arms[race.wanted.arm].status == "serving"
        ]
        others = {number for pair in wanted for number in pair} - {champion}
        others = {number for number in others if arms[number].status not in (*_DOWN, "waiting")}
        weights = even_split(champion, sorted(others)) if others else {champion: 1.0}
        now = self.store.split()
        if now is None or now.champion != champion:
            self.store.note("champion", {"arm": champion, "at": self._clock()})
        if now is None or dict(now.weights) != weights or now.champion != champion:
            self.store.put_split(weights, champion)

    def _champion(self) -> int | None:
        """The version to be served: the ledger's, or the nearest before it that was not taken down."""
        arms = {arm.number: arm for arm in self.store.arms()}
        number = self._desk.champion()
        if number is None:
            return 0 if 0 in arms else None
        number = self._arm_of(number)
        if number not in arms:
            return number
        while arms[number].status in _DOWN and arms[number].parent in arms:
            number = arms[number].parent or 0
        if arms[number].status == "ended":
            self.store.set_status(number, "serving", "champion")
        return number

    # Ending

    def _end(self, race: Race, told: Mapping[str, Any]) -> None:
        """Write the result down, its last line last, then tell whoever waits."""
        folder = race.job.folder
        _write(folder / "out" / LEFT, json.dumps(told))
        log = [f"{name}: {value}" for name, value in told.items() if name != "contrast"]
        _write(folder / "log", "\n".join(log) + "\n")
        seconds = max(0.0, self._clock() - race.began)
        words: dict[str, Any] = {"token": race.job.token, "outcome": Outcome.FINISHED, "exit_code": 0}
        words |= {"reason": str(told.get("verdict", "exit code 0")), "seconds": seconds}
        _write(folder / "result.json", json.dumps(words | {"cpu_seconds": 0.0, "peak_mb": 0.0}))
        run = Run(race.job.id, Outcome.FINISHED, words["reason"], folder, 0, Cost(seconds))
        self._leave(race, run)

    def _leave(self, race: Race, run: Run) -> None:
        self._races.pop(str(race.job.folder), None)
        if not race.future.done():
            race.future.set_result(run)


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and durably."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
