"""Nights for the page to show: ledgers told event by event, in the words in which the loop writes them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nightlab.ledger import Event, Ledger
from nightlab.place import Place, find

HACKS = (
    "<script>window.__hacked=1</script>",
    '<img src=x onerror="window.__hacked=2">',
    '<img src="http://203.0.113.7/beacon.png">',
    "</style></title></textarea><svg onload=window.__hacked=3>",
    '"><a href="javascript:window.__hacked=4" id=trap>click</a>',
    "' onmouseover='window.__hacked=5' autofocus onfocus='window.__hacked=6",
    "{{7*7}} ${7*7} {% print(7*7) %} <%= 7*7 %>",
    "<div hx-get='http://203.0.113.7/' hx-trigger=load data-hx-on:load='window.__hacked=7'>",
    "<meta http-equiv=refresh content='0;url=http://203.0.113.7/'>",
    "<form action=http://203.0.113.7/><button autofocus>free</button></form>",
    "safe \u202egnp.exe\u202c \u2066isolated\u2069 \u0000 \x1b[31mred\x1b[0m",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#x3C;script>window.__hacked=8</script>",
)
"""What an agent may write where it is asked for words; none of it may be more than words on the page."""

IDEAS = (
    "Adam instead of plain SGD, with bias correction; the rate stays as it is",
    "a wider hidden layer (64 to 128): the loss still falls at the end of the budget",
    "fan-in initialisation, so that the first hundred steps are not lost",
    "hashed bigrams as a second embedding, 4,096 buckets",
    "decay the rate with a cosine to a tenth over the whole budget",
    "leave out the bias of the output layer: one line less to read",
    "gradient clipping at 1.0 against the spikes seen in experiment 7",
    "relu instead of tanh: cheaper, and the gradients do not saturate",
)
_DIFF = """\
diff --git a/train.py b/train.py
--- a/train.py
+++ b/train.py
@@ -12,5 +12,6 @@ def model(width):
     layers = []
-    rate = {old}
+    rate = {new}
+    # {words}
     for layer in layers:
         layer.step(rate)
"""


@dataclass(slots=True)
class Night:
    """One study's ledger, and a pen."""

    place: Place
    ledger: Ledger
    count: int = 0
    best: float = 3.2
    incumbent: int = 0

    def begin(self) -> None:
        """The study, its lab, and a baseline of three runs."""
        study = {"study": self.place.name, "seed": 0, "base": "0" * 40, "metric": "val_bpb", "direction": "lower"}
        more = {"policy": "race", "level": "predictions", "jail": "bubblewrap", "task": {}}
        self.ledger.append(Event("study", "0", study | more), Event("began", "0", {"slots": 2, "jail": "bubblewrap"}))
        self.tell("baseline", status="kept", value=self.best, diff="", proposer="lab")
        power = {"sigma": 0.01, "correlation": 0.0, "visible_gain": 0.02, "examples": 2000, "good_for": 4000}
        self.ledger.append(Event("measured", "0", power, 0))

    def propose(self, hypothesis: str, *, diff: str | None = None, proposer: str = "tuner") -> int:
        """An experiment that waits for its first run; returns its number."""
        number, self.count = self.count, self.count + 1
        patch = _DIFF.format(old=number, new=number + 1, words=hypothesis) if diff is None else diff
        body = {"parent": self.incumbent if number else None, "hypothesis": hypothesis, "proposer": proposer}
        more = {"diff": patch, "facts": {}, "tree": f"{number:040x}", "complexity": number % 7, "money": 0.01}
        self.ledger.append(Event("proposed", str(number), body | more | {"tokens": 1200}, number))
        return number

    def start(self, number: int) -> str:
        """A run of it that goes on; returns the run's name."""
        run = f"{number}-1"
        body = {"run": run, "purpose": "candidate", "seed": 7 + number, "asked_by": number, "again": 0}
        self.ledger.append(Event("started", f"{run}.0", body, number))
        return run

    def end(self, number: int, *, value: float | None, tail: str = "", reason: str = "exit code 0") -> None:
        """The end of its run."""
        body = {"run": f"{number}-1", "outcome": "finished" if value is not None else "crashed", "reason": reason}
        cost = {"seconds": 5.0 + number % 3, "cpu_seconds": 4.8, "peak_mb": 120.0 + number % 5}
        more = {"value": value, "secondary": {}, "examples": "", "tail": tail, "facts": {}}
        self.ledger.append(Event("ran", f"{number}-1", body | more | cost, number))

    def decide(self, number: int, *, status: str, value: float | None = None, reason: str = "so it is") -> None:
        """What became of it."""
        gain = None if value is None else self.best - value
        said = {"status": status, "value": value, "gain": gain, "stderr": 0.008, "z": gain and gain / 0.008}
        body = said | {"reason": reason, "grade": None if value is None else "E2", "pool": [f"{number}-1"]}
        events = [Event("decided", str(number), body, number)]
        if status == "kept" and value is not None:
            self.best, self.incumbent = value, number
            events.append(Event("committed", str(number), {"commit": f"{number + 1:040x}"}, number))
        self.ledger.append(*events)

    def tell(
        self,
        hypothesis: str,
        *,
        status: str = "discarded",
        value: float | None = 3.3,
        diff: str | None = None,
        proposer: str = "tuner",
        reason: str = "gain -0.1 +- 0.008, z -12: worse",
        tail: str = "step 100 loss 3.41\nstep 200 loss 3.32\n",
    ) -> int:
        """A whole experiment, from the idea to the decision; returns its number."""
        number = self.propose(hypothesis, diff=diff, proposer=proposer)
        self.start(number)
        self.end(number, value=value, tail=tail, reason="exit code 0" if value is not None else "exit code 1")
        self.decide(number, status=status, value=value, reason=reason)
        return number

    def go_on(self, experiments: int) -> None:
        """More experiments, as nights have them: some kept, some that crashed, most not worth it."""
        chance = Random(self.count)
        for _ in range(experiments):
            words, proposer = IDEAS[self.count % len(IDEAS)], ("tuner", "claude")[self.count % 2]
            dice = chance.random()
            if dice < 0.1:
                told = {"status": "crashed", "value": None, "reason": "NameError: name 'ratte' is not defined"}
            elif dice < 0.25:
                told = {"status": "kept", "value": self.best - 0.04, "reason": "gain 0.04 +- 0.008, z 5.0: better"}
            else:
                told = {"value": self.best + chance.random() / 20}
            self.tell(f"{words} ({self.count})", proposer=proposer, **told)  # type: ignore[arg-type]

    def audit(self) -> None:
        """A look at the result with fresh seeds and sealed data."""
        found = {"gain": 0.31, "low": 0.28, "high": 0.34, "percent": 9.7}
        more = {"experiment": self.incumbent, "validation": found | {"start": 3.2}, "sealed": found | {"start": 3.2}}
        self.ledger.append(
            Event("opened", "0", {"seeds": [1, 2], "sealed": True}, self.incumbent),
            Event("audited", "0", found | more | {"data": "sealed", "seeds": [1, 2], "runs": 4, "seconds": 22.0}),
        )

    def close(self) -> None:
        """Put the pen down."""
        self.ledger.close()


def night_at(root: Path, name: str = "main") -> Night:
    """A pen for the ledger of a study, which may not have begun."""
    (root / ".nightlab").mkdir(parents=True, exist_ok=True)
    place = find(root, name)
    place.home.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(place.ledger)
    best = ledger.incumbent()
    if best is None:
        return Night(place, ledger)
    return Night(place, ledger, ledger.next_number(), best.value or 0.0, best.id)


def written(root: Path, experiments: int, name: str = "main") -> Path:
    """A folder with a whole night in it, audited and with words of its human."""
    with closing(night_at(root, name)) as night:
        night.begin()
        night.go_on(experiments)
        night.audit()
        night.ledger.append(Event("note", "human:1", {"text": "lost by a hair; retry with a lower rate"}, 2))
        night.ledger.append(Event("steered", "1", {"text": "look at the optimiser, not at the width"}))
        night.ledger.ask("steer", "look at the optimiser, not at the width")
    return root


def hostile(root: Path) -> Path:
    """A folder with a night whose every word was chosen by somebody who means harm."""
    with closing(night_at(root)) as night:
        night.begin()
        for words in HACKS:
            lines = f"--- a/{words}\n+++ b/{words}\n"
            diff = f"diff --git a/{words} b/{words}\n{lines}@@ -1 +1 @@ {words}\n-{words}\n+{words}\n"
            number = night.tell(words, diff=diff, proposer=words[:60], reason=words, tail=f"{words}\n" * 3)
            night.ledger.append(Event("note", f"human:{number}", {"text": words}, number))
            night.ledger.ask("steer", words)
        night.tell("kept " + HACKS[0], status="kept", value=3.0, reason=HACKS[1], diff=f"+{HACKS[0]}\n")
        night.start(night.propose(HACKS[1], diff=HACKS[3]))
    return root
