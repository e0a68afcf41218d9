"""The whole loop on one page: propose, apply, run, evaluate, decide, record. Standard library only.

    python mini.py FOLDER        # a night of each policy; killed with -9, it goes on where it was

What `nightlab` adds is what a stranger's code and a real night need: a jail, git, several slots, a judge that the run
cannot reach, a model that proposes. The honesty is all here: a crash has no score, a win has to hold on seeds that did
not pick it, a fact is on disk before anybody acts on it, and the last word has an audit on seeds that nobody has seen.
"""

import json
import os
import re
import subprocess
import sys
from math import sqrt
from pathlib import Path
from random import Random
from statistics import fmean, stdev

SCRIPT = """\
import math, random, sys

RATE = 1.0
WIDTH = 8.0
DECAY = 0.5

def luck(of):
    return random.Random(of).gauss(0, 0.04)

seed = sys.argv[1]
loss = 1 + 0.1 * abs(math.log(RATE / 0.2)) + 0.1 * abs(math.log(WIDTH / 30))  # DECAY does nothing at all
print("loss:", loss + luck(seed) + luck(f"{seed} {RATE} {WIDTH} {DECAY}"))
"""
"""The task: a script that tells its loss. Of a seed's luck half is shared by all versions of it, as in training."""


class Ledger:
    """Facts by name, a line of JSON each. What is in it is never worked out again: that is all of resuming."""

    def __init__(self, path):
        whole = path.read_bytes() if path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]  # the last line is torn where power failed while it was written
        self.facts = dict(json.loads(line) for line in whole.splitlines())
        self.file = path.open("ab")
        self.file.truncate(len(whole))

    def once(self, name, make):
        """The fact of this name; made, and on disk, before anybody can act on it."""
        if name not in self.facts:
            fact = make()
            self.file.write(json.dumps([name, fact]).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
            self.facts[name] = fact
        return self.facts[name]


def propose(text, dice):
    """An idea: one number of the script, smaller or larger. Who asks a model does it here."""
    name, old = dice.choice(re.findall(r"^([A-Z]+) = ([\d.]+)$", text, re.MULTILINE))
    new = float(old) * dice.choice([0, 0.5, 0.7, 1.4, 2])
    return {"words": f"{name} {old} -> {new:.3g}", "text": text.replace(f"{name} = {old}", f"{name} = {new:.3g}")}


def apply(text, script):
    """The script has this text, whole or not at all."""
    beside = script.with_suffix(".new")
    beside.write_text(text)
    beside.rename(script)


def run(script, seed):
    """One execution with one seed: what it printed, or None where it crashed or hung."""
    try:
        done = subprocess.run([sys.executable, "-IS", script, str(seed)], capture_output=True, text=True, timeout=10)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None


def evaluate(said):
    """The one number that a run came to. A crash has none: not 0, not infinity."""
    found = re.findall(r"^loss: (-?\d+\.\d+)$", said or "", re.MULTILINE)
    return float(found[0]) if len(found) == 1 else None


def greedy(candidate, incumbent):
    """One run; whatever beats the record is kept, and is the next record."""
    if not candidate:
        return "run candidate"
    return "keep" if min(candidate.values()) < min(incumbent.values()) else "discard"


def race(candidate, incumbent):
    """Both on the same fresh seeds, again and again while the answer is open."""
    if not candidate.keys() <= incumbent.keys():
        return "run incumbent"
    gains = [incumbent[seed] - candidate[seed] for seed in candidate]
    if not gains:
        return "run candidate"
    if len(gains) < 3:
        return "run candidate" if fmean(gains) > 0 else "discard"  # most ideas are bad, and cost one pair
    z = fmean(gains) / (stdev(gains) / sqrt(len(gains)))
    return "keep" if z > 2 else "discard" if z < 1 or len(gains) == 6 else "run candidate"


def night(folder, policy, *, seed=0, runs=200, run=run):
    """Search until so many runs are spent, then audit. What was kept, what the search claims, what the audit finds."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger, script = Ledger(folder / "ledger.jsonl"), folder / "script.py"
    spent = 0

    def loss(text, luck):
        nonlocal spent
        spent += 1

        def measured():
            apply(text, script)
            return evaluate(run(script, luck))

        return ledger.once(f"run {spent}, seed {luck}", measured)

    best, kept, number = SCRIPT, [], 0
    start = incumbent = {"first": loss(SCRIPT, f"{seed}-first")}
    while spent < runs or not incumbent:
        number += 1
        idea = ledger.once(f"{number} proposed", lambda: propose(best, Random(f"{seed} {number}")))
        candidate, verdict = {}, policy({}, incumbent)
        while verdict in ("run candidate", "run incumbent"):
            side, text = (candidate, idea["text"]) if verdict == "run candidate" else (incumbent, best)
            luck = next((of for of in candidate if of not in incumbent), f"{seed}-{number}-{len(candidate)}")
            side[luck] = loss(text, luck)
            verdict = "crashed" if side[luck] is None else policy(candidate, incumbent)
        ledger.once(f"{number} decided", lambda: verdict)
        if verdict == "keep":
            best, kept = idea["text"], [*kept, f"{number} {idea['words']}"]
            incumbent = candidate if policy is greedy else {}  # a race forgets the runs that picked the winner
        apply(best, script)
    claim = fmean(start.values()) - fmean(incumbent.values())
    fresh = [loss(SCRIPT, f"{seed}-audit-{n}") - loss(best, f"{seed}-audit-{n}") for n in range(20)]
    apply(best, script)
    return {"kept": kept, "claim": claim, "audit": fmean(fresh), "stderr": stdev(fresh) / sqrt(20), "best": best}


def main(folder, run=run):
    """A night of each policy, and what its claim was worth. One night is luck: the test looks at several."""
    for policy in (greedy, race):
        found = night(folder / policy.__name__, policy, run=run)
        print(f"{policy.__name__} kept {len(found['kept'])}:", "; ".join(found["kept"]))
        print(f"  it claims {found['claim']:.3f}; audited {found['audit']:.3f} +- {found['stderr']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)))
