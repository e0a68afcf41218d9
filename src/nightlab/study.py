"""A study: one search with all its parts put together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab import insights, plugins, sandbox, task
from nightlab.audit import Auditor
from nightlab.decide import Policy
from nightlab.errors import BadTask, NightlabError, NotFound
from nightlab.evaluator import Artifact, Evaluator, Predictions, Printed, command_line
from nightlab.executor import Executor
from nightlab.judge import Judge, Part
from nightlab.ledger import Event, Ledger
from nightlab.lineage import Lineage
from nightlab.loop import CHECKPOINT, Loop, Stop
from nightlab.noise import Noise
from nightlab.place import Place
from nightlab.proposer import Alone, Context, Peers, Proposer
from nightlab.pruner import PRUNE_FROM, Pruner, Say
from nightlab.runner import Runner
from nightlab.sealed import examine, located
from nightlab.search import Around, Search
from nightlab.smoke import Smoke
from nightlab.task import PROGRAM_FILE, TASK_FILE, Task
from nightlab.values import Cost
from nightlab.workspace import Checkout, patched, touched

if TYPE_CHECKING:
    pass

Watch = Callable[[Loop], AbstractContextManager[object]]
"""What people have around a running loop: a view of it, and Ctrl-C in hand."""


def load_task(place: Place) -> Task:
    """The task of the user's folder, checked against what HEAD holds. Raises BadTask."""
    here = Path.cwd()
    if not (place.root / TASK_FILE).exists() and (here / TASK_FILE).exists() and here != place.root:
        raise BadTask(
            f"{here / TASK_FILE} is not at the top of the repository; move it to {place.root}, paths included"
        )
    found = task.load(place.root)
    tree = place.repository.tree(place.repository.head())
    if not any(found.is_editable(path) for path in tree.entries):
        globs = ", ".join(found.task.editable)
        raise BadTask(f"no file in HEAD matches [task] editable ({globs}); commit it first: git add -A && git commit")
    commands = [found.task.run, found.task.predict or "", found.judge.run if found.judge else ""]
    for word in " ".join(commands).split():
        if word.endswith(".py") and word not in tree.entries and not Path(word).is_absolute():
            raise BadTask(f"{word} is not in HEAD; commit it first: git add {word} && git commit")
    return found


def _refuse_records(place: Place) -> None:
    """Raise BadTask where the study is what another loop did, observed or imported: it has no tree to go on from."""
    if not place.ledger.exists():
        return
    with closing(Ledger(place.ledger)) as ledger:
        known = ledger.study()
    if known is not None and "base" not in known:
        raise BadTask(
            f"study {place.name} is the record of another loop, observed or imported, and cannot be searched; "
            "start one beside it: nightlab run --study NAME"
        )


def _opened(place: Place) -> Ledger:
    """The study's ledger. One whose baseline never gave a number is put aside: the study starts anew from HEAD."""
    ledger = Ledger(place.ledger)
    failed = [run for run in ledger.runs(0) if run["outcome"] is not None and run["value"] is None]
    moved = (ledger.study() or {}).get("base") not in (None, place.repository.head())  # a judge mended and committed
    if ledger.incumbent() is not None or not (failed or moved):
        return ledger
    ledger.close()
    place.ledger.rename(place.ledger.with_name("ledger-failed.sqlite"))
    return Ledger(place.ledger)


class Study:
    """One search with all its parts: hold it, run it, audit it."""

    def __init__(
        self,
        place: Place,
        *,
        seed: int | None = None,
        policy: str | None = None,
        slots: int = 1,
        jail: str | None = None,
        unsafe: bool = False,
        executor: str = "local",
        options: Mapping[str, Any] | None = None,
        approve: bool = False,
        explore: bool = False,
    ) -> None:
        """Open the study at a place, or start it from HEAD. The caller holds it (`held`).

        Runs happen where the executor of this name has them, with these options of its own. In the strongest jail there
        is unless one is forced; `unsafe` allows none, and a weaker one than at the start.
        Of a live study: `approve` shows nothing to visitors before a human said so, `explore` begins it although its
        traffic is too small to tell what it looks for.
        """
        self.place = place
        _refuse_records(place)
        self.task = load_task(place)
        if self.task.live is not None and executor != "local":
            raise BadTask(f"a task with [live] runs with visitors, not on {executor!r}; leave --executor out")
        self.ledger = _opened(place)
        self._slots, self._jail, self._unsafe = slots, jail, unsafe
        self._executor, self._options = executor, options or {}
        self._approve, self._explore = approve, explore
        known = self.ledger.study()
        self.is_new = known is None
        metric = self.task.metric
        asked: dict[str, object] = {"metric": metric.name, "direction": metric.direction, "level": metric.level}
        asked |= {"seed": seed, "policy": policy}
        for name, before in (known or {}).items():
            if (value := asked.get(name)) is not None and value != before:
                words = f"study {place.name} was started with {name} {before!r}, not {value!r}"
                raise BadTask(f"{words}; another {name} is another study: nightlab run --study NAME")
        self.judged_on = ""
        self.peers: Peers = Alone()
        self._read_at, self._seen = 0, list[str]()
        self.facts = (
            self._checked(known) if known else self._start(seed or 0, policy or ("serve" if self.task.live else "race"))
        )
        self.ledger.wishes("stop", "pause", "resume")  # they were for the lab before
        session = {"slots": slots, "jail": self.executor.level, "executor": executor}
        self.ledger.append(Event("began", str(self.ledger.count("began")), session))

    def _checked(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was known of the study; with the weaker jail from now on, if one is allowed to it."""
        level, before = self.executor.level, facts.get("jail")
        if before is None or self.task.live or not sandbox.is_weaker(level, before):
            return facts
        if not (self._unsafe or self._jail):
            trouble = sandbox.why_not(before) or "it works again"
            raise NightlabError(
                f"study {self.place.name} was started in the jail {before!r}, which does not work now ({trouble}); "
                f"{sandbox.mend(trouble)}. To go on in the weaker {level!r}: --unsafe"
            )
        lowered = {**facts, "jail": level}
        self.ledger.append(Event("study", level, lowered))
        return lowered

    def _start(self, seed: int, policy: str) -> dict[str, Any]:
        plugins.load("policies", policy)
        self._need_traffic()
        self.judged_on = examine(self.task, self.place.root)
        commit = self.place.repository.head()
        facts = {
            "study": self.place.name,
            "seed": seed,
            "policy": policy,
            "base": commit,
            "metric": self.task.metric.name,
            "direction": self.task.metric.direction,
            "level": self.task.metric.level,
            "jail": "live" if self.task.live else self.executor.level,
            "task": json.loads(self.task.model_dump_json()),
        }
        # Calls are numbered from 0 again: what an earlier study asked and was told under a number is not this one's.
        if (agents := self.place.home / "agents").exists():
            agents.rename(self.place.home / f"agents-before-{commit[:7]}-{time.time_ns()}")
        self.ledger.append(Event("study", "0", facts))
        self.place.repository.start_branch(self.place.branch, commit)
        return facts

    def _need_traffic(self) -> None:
        """Raise BadTask where the visitors of a live study are too few for what it looks for."""
        if (live := self.task.live) is not None:
            from nightlab.live.capacity import require_power

            require_power(live.rate, live.effect, live.visitors_a_day, holdout=live.holdout, explore=self._explore)

    @cached_property
    def executor(self) -> Executor:
        """Where runs happen. One that is timed by the clock has its cores and its GPU for itself."""
        if self.task.live is not None:
            from nightlab.live import opening

            seed = int((self.ledger.study() or {})["seed"])
            return opening.executor(self.place, self.task, slots=self._slots, seed=seed, approve=self._approve)
        settings = {"slots": self._slots, "level": self._jail, "unsafe": self._unsafe}
        settings |= {"exclusive": self.task.budget.kind == "wall"}
        return plugins.executor(self._executor, settings, self._options)

    @cached_property
    def runner(self) -> Runner:
        """The slots."""
        return Runner(
            self.task, self.place.repository, self.executor, self._evaluator(), self.place.home, self.facts["seed"]
        )

    def loop(self, proposers: Sequence[Proposer]) -> Loop:
        """The loop over this study's ledger."""
        policy: Policy = plugins.load("policies", self.facts["policy"])()
        return Loop(
            task=self.task,
            ledger=self.ledger,
            repository=self.place.repository,
            slots=self.runner,
            proposers=proposers,
            policy=policy,
            branch=self.place.branch,
            seed=self.facts["seed"],
            around=Around(
                ideas=self._ideas(),
                instructions=self._instructions,
                insights=self._insights,
                smoke=Smoke(self.runner),
                peers=self.peers,
            ),
        )

    def auditor(self, say: Say = print) -> Auditor:
        """Whoever says in the morning what it is worth."""
        self._refuse_live("audit")
        self._set_limits()
        return Auditor(self._lineage(), self.runner, self.facts["seed"], say)

    def pruner(self, say: Say = print) -> Pruner:
        """Whoever takes out in the morning what no longer pays."""
        self._refuse_live("prune")
        self._set_limits()
        return Pruner(self._lineage(), self.runner, self.facts["seed"], say)

    def _refuse_live(self, verb: str) -> None:
        if self.task.live is not None:
            raise BadTask(
                f"a live study is not looked back on by {verb}: its visitors held out say what it is worth at any "
                "moment; nightlab live results shows it"
            )

    def _lineage(self) -> Lineage:
        return Lineage(task=self.task, ledger=self.ledger, repository=self.place.repository, branch=self.place.branch)

    def _set_limits(self) -> None:
        """Runs that nobody proposed are held to what the baseline used, as all others are."""
        runs = [run for run in self.ledger.runs(0) if run["purpose"] == "incumbent" and run["value"] is not None]
        if runs:
            self.runner.set_baseline([Cost(run["seconds"], run["cpu_seconds"], run["peak_mb"]) for run in runs])

    def finish(self, say: Say = print) -> None:
        """The end of a study, and every checkpoint: prune where it is due, audit what is new, try the larger rungs."""
        looked = {"after": self.ledger.runs_made()}
        if self.task.live is not None:
            self._hold_against_holdout(say)
            self.ledger.append(Event("looked_back", str(self.ledger.count("looked_back")), looked))
            return
        pruner = self.pruner(say)
        if pruner.is_due():
            say("Pruning: which of the kept changes still pay?")
            pruner.prune()
        self._audit_what_is_new(say)
        # Last: whoever is killed on the way looks back again.
        self.ledger.append(Event("looked_back", str(self.ledger.count("looked_back")), looked))

    def _hold_against_holdout(self, say: Say) -> None:
        """The look back of a live study: champion against visitors who were shown the start all the while."""
        from nightlab.live import holdout, opening

        best = self._lineage().repair().number
        found = opening.lifts(self.executor.store, self.task.live) if self.task.live else None  # type: ignore[attr-defined]
        if found is None or found.champion != best or found.holdout is None or not self._lineage().keeps():
            return
        say(f"Looking back: {found.words()}.")
        told = holdout.audited(found)
        self.ledger.append(Event("audited", str(self.ledger.count("audited")), told, best))

    def _audit_what_is_new(self, say: Say) -> None:
        auditor, audited = self.auditor(say), self.ledger.last("audited")
        best = auditor.lineage.repair().number
        if not auditor.lineage.keeps() or (audited and audited.body["experiment"] == best):
            return
        where = "fresh seeds and sealed data" if self.task.has_sealed else "fresh seeds"
        say(f"Auditing: the result against the start, on {where}.")
        found = auditor.audit()
        for rung in self.task.scale if found and found["low"] > 0 else ():
            say(f"Transfer: does it hold at the larger rung {rung}?")
            auditor.transfer(rung)

    def night(self, proposers: Callable[[], Sequence[Proposer]], stop: Stop, watch: Watch, say: Say = print) -> str:
        """Search until a stop rule, looking back at every checkpoint and, unless somebody asked to stop, at the end.

        Returns why it ended. Each stretch has a loop of its own, as if the study had been resumed.
        """
        while True:
            last = self.ledger.last("looked_back")
            left = PRUNE_FROM - self.ledger.runs_made() + (int(last.body["after"]) if last else 0)
            loop = self.loop(proposers())
            loop.prune_follows = True
            began = time.monotonic()
            with watch(loop):
                reason = loop.run(replace(stop, runs=max(1, left)))
            say("looking back:" if reason == CHECKPOINT else f"stopped: {reason}")
            if loop.is_asked_to_stop:
                return reason
            self.finish(say)
            if reason != CHECKPOINT:
                return reason
            stop = stop.after(loop.opened, time.monotonic() - began)

    def close(self) -> None:
        """Let go of processes, files and trees; what still runs is ended, and run again later."""
        if self.task.live is not None and "executor" in self.__dict__:
            self.executor.close()  # not killed: visitors go on seeing what they see
        if "runner" in self.__dict__:
            self.runner.kill()
            self.runner.close()
        if "executor" in self.__dict__:
            self.executor.close()
        self.ledger.close()
        self.place.repository.close()

    def _evaluator(self) -> Evaluator:
        if self.task.live is not None:
            from nightlab.live.evaluator import LiveEvaluator

            return LiveEvaluator()
        metric, judge, repository = self.task.metric, self.task.judge, self.place.repository
        if judge is None or metric.level == "printed":
            return Printed(metric.name, metric.bounds)
        # The judge's own copy of the base commit: what a run changes never reaches it.
        home = Checkout(self.place.home / "judge", repository).lay(repository.tree(self.facts["base"]))
        cache = self.place.home / "cache"
        cache.mkdir(exist_ok=True)
        sides: dict[Part, str] = {"data": judge.data, "sealed": judge.sealed}
        asked = Judge(
            command=command_line(judge.run, folder=self.place.root),
            home=home,
            cache=cache,
            parts={part: str(located(name, self.place.root) or name) for part, name in sides.items()},
            env=judge.env,
        )
        known: dict[str, Any] = {
            "judge": asked,
            "metric": metric.name,
            "bounds": metric.bounds,
            "gives": self.task.gives,
        }
        if metric.level == "artifact":
            most = int(self.task.limits.artifact_mb * 1024 * 1024)
            return Artifact(name=self.task.task.artifact or "", most=most, **known)
        predict = command_line(self.task.task.predict or "", folder=self.place.root)
        return Predictions(predict=predict, launch=lambda job: self.executor.submit(job).result(), **known)

    def _ideas(self) -> dict[str, str]:
        glob = self.task.task.ideas
        if glob is None:
            return {}
        tree = self.place.repository.tree(self.facts["base"])
        paths = [path for path in tree.entries if Path(path).match(glob)]
        return {path: text for path in sorted(paths) if (text := self.place.repository.text(tree, path))}

    def _insights(self) -> list[str]:
        """What the experiments say together; read anew once they are a twentieth more, since it reads all of them."""
        count = self.ledger.next_number()
        if not self._read_at or count > 1.05 * self._read_at:
            self._read_at, self._seen = count, insights.for_agents(self.place, self.ledger)
        if self.task.live is not None:
            from nightlab.live import opening

            return [*opening.said(self.executor.store, self.task.live), *self._seen]  # type: ignore[attr-defined]
        return self._seen

    def _instructions(self) -> str:
        return instructions(self.place)


def instructions(place: Place) -> str:
    """The human's own words as they stand now; read anew for every idea."""
    path = place.root / PROGRAM_FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def context_of(place: Place) -> tuple[Context, Task]:
    """What an agent would be told if it were asked now. Raises NotFound before the study has an incumbent."""
    found = load_task(place)
    with closing(place.read()) as ledger:
        best, study = ledger.incumbent(), ledger.study() or {}
        if best is None:
            raise NotFound(
                f"study {place.name} has no baseline yet, so there is nothing to tell; start it: nightlab run"
            )
        lineage = Lineage(task=found, ledger=ledger, repository=place.repository, branch=place.branch)
        noise = Noise(ledger, found.metric.direction, lambda _: None)
        noise.learn_start(ledger)
        seen = insights.for_agents(place, ledger)
        around = Around(instructions=lambda: instructions(place), insights=lambda: seen)
        seed = int(study["seed"])
        search = Search([], task=found, ledger=ledger, lineage=lineage, noise=noise, seed=seed, around=around)
        for experiment in ledger.experiments()[1:]:
            if not experiment.status.is_open:
                search.learn(experiment)
        search.resume()
        for text in ledger.unheard("steer"):
            search.steer(text)
        return search.whole_context(lineage.standing(best.id)), found


def write_tree(place: Place, number: int, into: Path) -> Path:
    """Lay an experiment's whole tree into a new folder: kept or not, nothing is thrown away."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise BadTask(f"{into} exists and is not empty; name another folder with --into")
    with closing(place.read()) as ledger:
        experiment = ledger.experiment(number)
        at = experiment.commit or ledger.experiment(experiment.parent or 0).commit
    repository = place.repository
    if at is None or (commit := repository.commit(at)) is None:
        raise NotFound(f"experiment {number} has no tree here: its commit {at} is not in {place.root}")
    tree, texts = repository.tree(commit), dict[str, str | None]()
    if experiment.commit is None and experiment.diff:
        paths = {path: repository.text(tree, path) for path in touched(experiment.diff)}
        texts = patched(paths, experiment.diff) or {}
    return Checkout(into, repository).lay(tree.changed(texts), texts=texts)
