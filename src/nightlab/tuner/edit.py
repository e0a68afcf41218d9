"""An edit: a named change to one file, with its hypothesis in words; and the arm that walks through edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import libcst as cst

from nightlab.proposer import Context
from nightlab.tuner import space
from nightlab.tuner.memory import Memory
from nightlab.tuner.tree import Swaps, Tree, parsed, rewritten, stays_within_marks
from nightlab.values import Experiment, Files, Proposal, Status, derived_seed

ATTEMPTS = 20
REMEMBERED = 2000
KEEPS_UNTIL_RETRIED = 2
"""A change that lost may win on a later parent: in the public run one lost as run 36 and won as run 111."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One site of one transform: nodes and what replaces them, and what must stand below the imports for it."""

    kind: str
    hypothesis: str
    swaps: Swaps
    preamble: str = ""


Transform = Callable[[Tree], Iterator[Edit]]
"""Finds every site in a file where it applies; none where its precondition is absent."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Something an arm could try now: `make` gives the changed files, or None where it cannot."""

    key: str
    kind: str
    hypothesis: str
    make: Callable[[], Files | None]


class Edits:
    """An arm that walks through offers: untried kinds and kinds that paid come first, the rest is chance."""

    def __init__(self, name: str, offers: Callable[[Context], Iterable[Offer]]) -> None:
        self.name = name
        self._offers = offers
        self._memory = Memory()

    def learn(self, experiment: Experiment) -> None:
        """Remember edits, for what they did, and whatever was kept, for when."""
        if "edit" in experiment.facts or experiment.status is Status.KEPT:
            self._memory.learn(experiment)

    def propose(self, context: Context) -> Proposal | None:
        """The first offer in this order that gives a tree nobody has tried."""
        rng = Random(derived_seed(context.seed, self.name, context.number))
        for offer in islice(ranked(self._offers(context), self._memory.latest(REMEMBERED), rng), ATTEMPTS):
            files = changed(context.files, offer.make())
            if files and not context.was_tried(files):
                facts = {"edit": offer.key, "kind": offer.kind, **constant_facts(context.files, files)}
                return Proposal(offer.hypothesis, files, facts)
        return None


def ranked(offers: Iterable[Offer], told: Sequence[Experiment], rng: Random) -> Iterator[Offer]:
    """The offers still open, in an order drawn by chance and weighted by how their kind has fared."""
    tried = Counter(str(e.facts["kind"]) for e in told if "kind" in e.facts)
    kept = Counter(str(e.facts["kind"]) for e in told if "kind" in e.facts and e.status is Status.KEPT)
    shut = _shut(told)

    def drawn(offer: Offer) -> float:
        weight = (kept[offer.kind] + 1) / (tried[offer.kind] + 1)
        return float(rng.random() ** (1 / weight**2))

    open_ones = [offer for offer in offers if offer.key not in shut]
    return iter(sorted(open_ones, key=drawn, reverse=True))


def _shut(told: Sequence[Experiment]) -> set[str]:
    """The keys that lost on this parent or on one hardly older."""
    keeps, shut = 0, set()
    for experiment in reversed(told):
        if keeps >= KEEPS_UNTIL_RETRIED:
            break
        if experiment.status is Status.KEPT:
            keeps += 1
        elif "edit" in experiment.facts:
            shut.add(str(experiment.facts["edit"]))
    return shut


def offers(files: Mapping[str, str], transforms: Sequence[Transform]) -> Iterator[Offer]:
    """Every edit that these transforms find in the Python files."""
    for path in sorted(files):
        tree = parsed(files[path]) if path.endswith(".py") else None
        if tree is None:
            continue
        times: Counter[str] = Counter()
        for edit in (e for transform in transforms for e in transform(tree)):
            times[edit.hypothesis] += 1
            key = f"{path}:{edit.hypothesis}" + (f"#{times[edit.hypothesis]}" if times[edit.hypothesis] > 1 else "")
            yield Offer(key, edit.kind, edit.hypothesis, _Made(path, tree, edit))


@dataclass(frozen=True, slots=True)
class _Made:
    path: str
    tree: Tree
    edit: Edit

    def __call__(self) -> Files | None:
        if any(above in self.edit.swaps for node in self.edit.swaps for above in self.tree.above(node)):
            return None  # one site holds another: replacing the outer would bring the inner back
        text = with_preamble(rewritten(self.tree, self.edit.swaps), self.edit.preamble)
        is_allowed = parsed(text) is not None and stays_within_marks(self.tree.text, text)
        return {self.path: text} if is_allowed else None


def with_preamble(text: str, preamble: str) -> str:
    """The text with these statements below its first imports, unless they stand there already."""
    if not preamble:
        return text
    module = cst.parse_module(text)
    new = cst.parse_module(preamble, config=module.config_for_parsing)
    have = {module.code_for_node(s).strip() for s in module.body}
    missing = [_apart(s) for s in new.body if new.code_for_node(s).strip() not in have]
    at = sum(1 for _ in _opening(module))
    return module.with_changes(body=[*module.body[:at], *missing, *module.body[at:]]).code


def _apart(statement: cst.SimpleStatementLine | cst.BaseCompoundStatement) -> cst.BaseStatement:
    """A definition with the two empty lines before it that are its due."""
    empty = cst.EmptyLine(indent=False)
    return statement.with_changes(leading_lines=(empty, empty)) if isinstance(statement, cst.FunctionDef) else statement


def _opening(module: cst.Module) -> Iterator[cst.CSTNode]:
    """The docstring and the imports a file begins with."""
    for statement in module.body:
        if not isinstance(statement, cst.SimpleStatementLine):
            return
        if not all(isinstance(s, cst.Import | cst.ImportFrom) or is_text(s) for s in statement.body):
            return
        yield statement


def is_text(node: cst.CSTNode) -> bool:
    """Whether a statement is only a string, as docstrings are."""
    return isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)


def changed(before: Mapping[str, str], files: Files | None) -> Files:
    """Only the files whose text is another."""
    return {path: text for path, text in (files or {}).items() if before.get(path) != text}


def constant_facts(before: Mapping[str, str], files: Files) -> dict[str, object]:
    """What the result says about constants, so that every experiment of the tuner teaches the sampler."""
    after = {path: text for path, text in {**before, **files}.items() if text is not None}
    return {"constants": space.constants(after)}
