"""The morning after, over slots that end at once: audit, prune, transfer, and what leaves the branch again."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from conftest import TASK, git, wait_for
from test_loop import Lab, knob

from nightlab.audit import Auditor
from nightlab.errors import BadTask, StudyStuck
from nightlab.ledger import Ledger
from nightlab.lineage import Lineage
from nightlab.loop import Stop
from nightlab.proposer import Scripted
from nightlab.pruner import Pruner
from nightlab.runner import Attempt
from nightlab.task import parse
from nightlab.testing.fakes import InstantSlots, Score
from nightlab.values import Experiment, Files, Proposal, Status

SIGMA = 0.1
NAMES = "abcdefghij"
START = "".join(f"{name} = 0\n\n\n\n" for name in NAMES)


def effects(attempt: Attempt, texts: Files) -> dict[str, float]:
    lines = (texts.get("train.py") or START).splitlines()
    return {line[0]: float(line.partition("= ")[2]) for line in lines if line}


def useful(attempt: Attempt, texts: Files) -> float:
    """The first four knobs are worth a sigma and more each; the others do nothing at all."""
    gain = sum(effects(attempt, texts)[name] for name in NAMES[:4])
    luck = Random(attempt.seed).gauss(0, SIGMA) + Random(f"{attempt.run}").gauss(0, SIGMA / 5)
    return 10.0 - 0.2 * gain + luck


def turned(*names: str) -> str:
    return "".join(f"{name} = {int(name in names)}\n\n\n\n" for name in NAMES)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A study whose branch holds ten keeps: four good ones among six barnacles."""
    lab = Lab(tmp_path / "study", start=START)
    order = "aebfcgdhij"
    proposals = [Proposal(f"turn {order[n]}", {"train.py": turned(*order[: n + 1])}) for n in range(10)]
    lab.loop(Scripted(proposals), score=useful, policy=_Believes()).run(Stop(experiments=10))
    assert len(lab.branch()) == 10
    return lab


class _Believes:
    """Keeps whatever runs."""

    name, baseline_runs = "believes", 3

    def decide(self, evidence: object) -> object:
        from nightlab.values import Decision

        if not evidence.candidate:  # type: ignore[attr-defined]
            return Decision("more", "candidate", None, None, None, "")
        return Decision("keep", None, 0.01, SIGMA, 0.1, "believed")

    def successor(self, candidate_runs: list[float]) -> list[float]:
        return list(candidate_runs)


def auditor(lab: Lab, score: Score = useful, task: str = TASK) -> Auditor:
    found = Lineage(task=parse(task), ledger=lab.ledger, repository=lab.repository, branch="nightlab/main")
    slots = InstantSlots(score, repository=lab.repository)
    return Auditor(found, slots, 0, say=lambda _: None)


def pruner(lab: Lab, score: Score = useful, task: str = TASK) -> Pruner:
    one = auditor(lab, score, task)
    return Pruner(one.lineage, one.slots, 0, one.say)


def at(lab: Lab, status: Status) -> list[Experiment]:
    return [one for one in lab.ledger.experiments() if one.status is status]


def test_the_prune_takes_barnacles_out_and_leaves_what_pays(lab: Lab) -> None:
    found = pruner(lab).prune()

    assert found is not None
    gone = {one.hypothesis[-1] for one in at(lab, Status.PRUNED)}
    assert len(gone) >= 4
    assert gone <= set(NAMES[4:])
    assert found["gain"] > -0.5 * SIGMA
    text = git(lab.folder, "show", "nightlab/main:train.py")
    assert all(f"{name} = 1" in text for name in "abcd")
    assert all(f"{name} = 0" in text for name in gone)


def test_what_was_pruned_leaves_by_a_revert_commit_and_the_history_stays(lab: Lab) -> None:
    pruner(lab).prune()

    message = git(lab.folder, "log", "-1", "--format=%B", "nightlab/main")
    gone = at(lab, Status.PRUNED)
    assert [f"Takes-Out: {one.id}" in message for one in gone] == [True] * len(gone)
    assert message.startswith("without experiments ")
    assert len(lab.branch()) == 11
    assert all(one.commit for one in gone)
    assert all("no longer pay" in one.reason for one in gone)


def test_the_loop_goes_on_from_the_pruned_tree(lab: Lab) -> None:
    pruner(lab).prune()
    pruned = lab.ledger.incumbent()
    assert pruned is not None
    assert len(lab.ledger.pool(pruned.id)) >= 3

    lab.loop(Scripted([knob(1)] * 11 + [Proposal("worse", {"train.py": turned("a")})]), score=useful).run()

    assert lab.ledger.experiments(newest=True, limit=1)[0].parent == pruned.id


def test_keeps_that_stand_on_each_other_are_taken_out_together(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", start="A = 0\n")
    texts = ["A = 1\n", "A = 1\nB = A + 1\n", "A = 1\nB = A + 2\n"]
    lab.loop(
        Scripted([Proposal(f"step {n}", {"train.py": text}) for n, text in enumerate(texts)]),
        score=lambda a, t: 1.0,
        policy=_Believes(),
    ).run(Stop(experiments=3))
    lineage = auditor(lab).lineage

    units = lineage.units(lineage.keeps(), lineage.repair().texts)

    assert {3} < {one.id for one in max(units, key=len)}
    for unit in units:
        assert lineage.without(unit, lineage.repair().texts) is not None


def test_a_prune_that_costs_the_gain_takes_out_only_what_can_go(lab: Lab) -> None:
    def together(attempt: Attempt, texts: Files) -> float:
        """The ones that look idle hold the house up: without all of them everything is lost."""
        on = effects(attempt, texts)
        lost = 5.0 if not any(on[name] for name in NAMES[4:]) else 0.0
        return useful(attempt, texts) + lost

    found = pruner(lab, together).prune()

    assert found is not None
    assert found["dropped"]
    assert any(f"{name} = 1" in git(lab.folder, "show", "nightlab/main:train.py") for name in NAMES[4:])


def test_the_audit_is_the_number_to_believe_and_its_seeds_are_new(lab: Lab) -> None:
    one = auditor(lab)
    found = one.audit()

    assert found is not None
    assert found["low"] < 0.8 < found["high"]
    used = {run["seed"] for one in lab.ledger.experiments() for run in lab.ledger.runs(one.id)}
    assert not used & set(found["seeds"])
    assert not set(found["seeds"]) & set((one.audit() or {})["seeds"])


def test_an_audit_pauses_goes_on_and_stops_when_told(lab: Lab) -> None:
    looked: list[str] = []

    def counted(attempt: Attempt, texts: Files) -> float:
        looked.append(attempt.run)
        return useful(attempt, texts)

    with closing(Ledger(lab.ledger.path)) as other, ThreadPoolExecutor() as pool:
        other.ask("pause")
        audit = pool.submit(auditor(lab, counted).audit)
        wait_for(other.is_paused)
        time.sleep(0.4)
        seen_in_the_pause = list(looked)
        other.ask("resume")
        audit.result(timeout=30)
        other.ask("pause")
        again = pool.submit(auditor(lab, counted).audit)
        wait_for(other.is_paused)
        other.ask("stop")

        with pytest.raises(StudyStuck, match="the audit was stopped; run it again with: nightlab audit"):
            again.result(timeout=30)
    assert seen_in_the_pause == []
    assert looked


def test_a_night_whose_audit_shows_no_gain_leaves_the_branch_as_a_whole(lab: Lab) -> None:
    found = auditor(lab, lambda attempt, texts: 10.0 + 0.5 * (texts["train.py"] != START)).audit()

    assert found is not None
    assert found["gain"] == -0.5
    assert len(at(lab, Status.REVERTED)) == 10
    assert git(lab.folder, "diff", "main", "nightlab/main") == ""
    assert "the audit found no gain (-0.5" in at(lab, Status.REVERTED)[0].reason
    assert auditor(lab).audit() is None


def test_an_opened_seal_is_counted_even_if_the_audit_dies(lab: Lab) -> None:
    sealed = TASK + 'level = "predictions"\n[judge]\nrun = "python judge.py"\nsealed = "sealed"\n'
    sealed = sealed.replace("editable", 'predict = "python predict.py"\neditable')
    with pytest.raises(StudyStuck, match="gave no number in the audit"):
        auditor(lab, lambda attempt, texts: "gone", sealed).audit()

    assert lab.ledger.exposure()["seal_opened"] == 1


RUNG = TASK + "[scale.medium]\namount = 4\n"


def test_a_gain_that_holds_at_a_larger_rung_is_transferred(lab: Lab) -> None:
    def larger(attempt: Attempt, texts: Files) -> float:
        assert attempt.rung == "medium"
        return 5.0 - 0.1 * sum(effects(attempt, texts)[name] for name in NAMES[:4]) + 0.001 * (attempt.seed % 2)

    found = auditor(lab, larger, RUNG).transfer("medium")

    assert found is not None
    assert found["gain"] == pytest.approx(0.4)
    assert 0.2 < found["ratio"] < 1.2
    assert lab.ledger.incumbent().grade == "E4"  # type: ignore[union-attr]


def test_where_little_transfers_the_keeps_that_do_are_named(lab: Lab) -> None:
    def larger(attempt: Attempt, texts: Files) -> float:
        on = effects(attempt, texts)
        noise = Random(f"{attempt.seed}{attempt.run}").gauss(0, 0.01)
        return 5.0 - 0.1 * on["a"] + noise

    found = auditor(lab, larger, RUNG).transfer("medium")

    assert found is not None
    assert found["ratio"] < 0.3
    assert 1 in found["carried_by"]
    assert len(found["carried_by"]) < 6


def test_an_unknown_rung_is_refused_by_name(lab: Lab) -> None:
    with pytest.raises(BadTask, match=r"no \[scale\.huge\] \(there: none\)"):
        auditor(lab).transfer("huge")


def test_an_incumbent_that_ignores_its_seed_is_taken_out_when_it_is_run_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study")

    def score(attempt: Attempt, texts: Files) -> float:
        value = float((texts.get("train.py") or "KNOB = 5").removeprefix("KNOB = "))
        return 3.14159265 if value == 4 else value + Random(attempt.seed).gauss(0, 0.1)

    proposals = [knob(4, "a lucky seed"), *(knob(9 + n) for n in range(8))]
    lab.loop(Scripted(proposals), score=score).run()

    lucky = lab.ledger.experiment(1)
    assert lucky.status is Status.REVERTED
    assert "under every seed" in lucky.reason
    assert git(lab.folder, "show", "nightlab/main:train.py") == "KNOB = 5"
    later = lab.ledger.experiments(newest=True, limit=1)[0]
    assert later.parent != 1


def test_a_simpler_tree_that_loses_nothing_is_kept(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", start="KNOB = 5\n" + "print(KNOB, 1, 2, 3)\n" * 12)
    score = lambda attempt, texts: 5.0 + Random(f"{attempt.seed}{attempt.run}").gauss(0, 0.05)  # noqa: E731
    lab.loop(Scripted([knob(5, "drop the prints")]), score=score).run()

    one = lab.ledger.experiment(1)
    assert one.complexity < -10
    assert one.status is Status.KEPT


def test_the_report_says_the_audited_number_first(lab: Lab) -> None:
    from nightlab.report import lines, report

    pruner(lab).prune()
    auditor(lab).audit()
    told = report(lab.ledger, name="main", is_running=False)

    said = lines(told)
    assert said[0].startswith("audited on fresh seeds and sealed data: gain ")
    assert said[1].startswith("the loop's own claim, for comparison: ")
    assert len(told["fell_away"]) >= 4
    assert told["claim"]["grade"] in ("E1", "E2")
    json.dumps(told)
