"""The space: what can be turned in the editable files, each on a scale that suits it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import libcst as cst

from nightlab.tuner.tree import Tree, code, dotted, is_marked, parsed, rewritten, stays_within_marks

Number = int | float
Kind = Literal["log", "powers", "linear", "complement", "zero", "count", "switch"]


def words(name: str) -> frozenset[str]:
    """`maxSize_of` -> max, size, of."""
    return frozenset(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()))


NEVER = words(
    "evaluate metric score judge "
    "seed seeds path paths dir folder file filename url host port budget deadline timeout time seconds "
    "minutes hours version verbose verbosity log logs logging print debug axis indent id year eval evals "
    "evaluation val valid validation test tests holdout workers threads processes retries maxsize "
    "stacklevel"
)
"""Words in a name that say it is not ours to turn: it moves the measure, the budget or the printing."""

FRACTIONS = words(
    "momentum beta betas dropout ratio fraction frac warmup warmdown cooldown decay ema alpha probability "
    "prob percent quantile keep smoothing mix"
)
_AT_THE_END = 0.1
"""Of a step: so near to an end of its range a knob counts as standing there."""
_LEAST_ZERO = -17.0  # 2^-17, about 1e-5: the smallest value that a knob at nought is tried at


@dataclass(frozen=True, slots=True)
class Knob:
    """A literal that can be turned. Its `place` is where it stands on its scale; low and high bound that."""

    key: str
    label: str
    path: str
    node: cst.BaseExpression
    value: Number
    kind: Kind
    low: float
    high: float
    step: float
    """How far a first step goes: one octave on a logarithmic scale."""

    @property
    def place(self) -> float:
        """Where its present value stands."""
        return self.place_of(self.value)

    def place_of(self, value: Number) -> float:
        """Where on the scale a value stands, moved to the nearest end where it lies outside."""
        return min(max(_place(self.kind, value), self.low), self.high)

    def since(self, origin: Number) -> Knob:
        """The same knob on the scale of the value it once had, reaching as far as it stands now: a scale that moved
        along would tell other places of the runs that are known."""
        kind, low, high, step = _scale(self.label, origin) or (self.kind, self.low, self.high, self.step)
        if kind in ("log", "powers", "linear", "count"):
            at = _place(kind, self.value)
            low, high = min(low, at), max(high, at)
        return replace(self, kind=kind, low=low, high=high, step=step)

    def beyond(self) -> Knob:
        """The same knob, reaching one step further where it stands at an end of its range."""
        low, high, is_fraction = self.low, self.high, self.kind == "linear"
        if self.kind in ("log", "powers", "linear", "count"):
            if self.place <= low + _AT_THE_END * self.step:
                low = min(low, max(low - self.step, 0.0 if is_fraction or isinstance(self.value, int) else -math.inf))
            if self.place >= high - _AT_THE_END * self.step:
                high = max(high, min(high + self.step, 0.99 if is_fraction else math.inf))
        return replace(self, low=low, high=high)

    def at(self, place: float) -> Number:
        """The value at a place, as a person would write it."""
        place = min(max(place, self.low), self.high)
        if self.kind == "switch":
            return place >= 0.5
        if self.kind in ("powers", "count"):
            return 2 ** round(place) if self.kind == "powers" else round(place)
        if self.kind == "zero":
            return 0.0 if place <= _LEAST_ZERO else rounded(2.0**place)
        if self.kind == "linear":
            return round(place, max(3, 2 - math.floor(math.log10(self.high - self.low))))  # three digits of the range
        if self.kind == "complement":
            return float(f"{1 - rounded(2.0**-place):.10g}")
        size = math.copysign(2.0**place, self.value)
        return round(rounded(size)) if isinstance(self.value, int) else rounded(size)


def rounded(value: float) -> float:
    """To three significant digits."""
    return float(f"{value:.3g}")


def _place(kind: Kind, value: Number) -> float:
    if kind in ("linear", "count", "switch"):
        return float(value)
    if kind == "zero":
        return math.log2(value) if value > 0 else _LEAST_ZERO - 1
    if kind == "complement":
        return -math.log2(max(1 - value, 1e-12))
    return math.log2(max(abs(value), 1e-12))


def knobs(files: Mapping[str, str]) -> tuple[Knob, ...]:
    """Everything that can be turned in these files, in the order of the text."""
    return tuple(k for path in sorted(files) if path.endswith(".py") for k in _scanned(path, files[path]))


def constants(files: Mapping[str, str]) -> dict[str, Number]:
    """Key -> present value of every knob: what an experiment tells the sampler about its source."""
    return {knob.key: knob.value for knob in knobs(files)}


def turned(files: Mapping[str, str], values: Mapping[str, Number]) -> dict[str, str]:
    """The changed files with these knobs at these values."""
    moved = [k for k in knobs(files) if k.key in values and values[k.key] != k.value]
    return {
        path: rewritten(tree, {k.node: written(k.node, values[k.key]) for k in moved if k.path == path})
        for path in dict.fromkeys(k.path for k in moved)
        if (tree := parsed(files[path])) is not None
    }


@lru_cache(maxsize=128)
def _scanned(path: str, text: str) -> tuple[Knob, ...]:
    tree = parsed(text)
    if tree is None:
        return ()
    found: list[Knob] = []
    times: Counter[str] = Counter()
    has_marks = is_marked(text)
    for place, label, node in _literals(tree):
        value = number(node)
        scale = None if value is None else _scale(label, value)
        if value is None or scale is None or (has_marks and not _is_marked(tree, node)):
            continue
        times[place] += 1
        key = f"{path}:{place}" + (f"#{times[place]}" if times[place] > 1 else "")
        found.append(Knob(key, label, path, node, value, *scale))
    return tuple(found)


def _is_marked(tree: Tree, node: cst.BaseExpression) -> bool:
    """Whether a literal stands where the file's marks let it be changed."""
    return stays_within_marks(tree.text, rewritten(tree, {node: cst.Name("another")}))


# --- where literals stand ---------------------------------------------------------------------------------------------


def _literals(tree: Tree) -> Iterator[tuple[str, str, cst.BaseExpression]]:
    """Where it stands, what to call it, the literal: for every number or switch that has a name."""
    for node in tree.nodes:
        if not isinstance(node, cst.Assign | cst.AnnAssign | cst.Param | cst.Arg):
            continue
        home = tree.home(node)
        front = f"{home}." if home else ""
        if words(home) & NEVER:
            continue
        if isinstance(node, cst.Assign | cst.AnnAssign):
            is_local = isinstance(tree.scope(node), cst.FunctionDef)
            for name, value in _assigned(node):
                if not (is_local and number(value) in (0, 1)) and not (is_boolean(value) and not name.isupper()):
                    yield front + name, name, value
        elif isinstance(node, cst.Param) and node.default is not None and not is_boolean(node.default):
            owner = home.rpartition(".")[2]
            yield f"{home}({node.name.value})", _of(node.name.value, owner), node.default
        elif isinstance(node, cst.Arg) and node.keyword is not None and not is_boolean(node.value):
            call = tree.parents[node]
            name, callee = node.keyword.value, dotted(call.func) if isinstance(call, cst.Call) else ""
            if name not in ("dim", "axis", "end", "shape", "size"):
                yield f"{front}{callee}({name})", _of(name, callee.rpartition(".")[2]), node.value


def _of(name: str, owner: str) -> str:
    return f"{name} of {owner}()" if owner and owner != "dict" else name


def _assigned(node: cst.Assign | cst.AnnAssign) -> Iterator[tuple[str, cst.BaseExpression]]:
    """Name -> value of what an assignment gives to plain names, element by element where it gives a row."""
    targets = [t.target for t in node.targets] if isinstance(node, cst.Assign) else [node.target]
    target, value = targets[0], node.value
    if isinstance(target, cst.Name) and value is not None:
        yield from _elements(target.value, value)
    elif isinstance(target, cst.Tuple) and isinstance(value, cst.Tuple) and len(target.elements) == len(value.elements):
        for one, given in zip(target.elements, value.elements, strict=True):
            if isinstance(one.value, cst.Name):
                yield one.value.value, given.value


def _elements(name: str, value: cst.BaseExpression) -> Iterator[tuple[str, cst.BaseExpression]]:
    if isinstance(value, cst.Tuple | cst.List) and len(value.elements) <= 8:
        yield from ((f"{name}[{i}]", element.value) for i, element in enumerate(value.elements))
    elif isinstance(value, cst.Dict):
        for entry in value.elements:
            if isinstance(entry, cst.DictElement) and isinstance(entry.key, cst.SimpleString):
                yield f"{name}[{entry.key.value}]", entry.value
    else:
        yield name, value


# --- what they say ----------------------------------------------------------------------------------------------------


def is_boolean(node: cst.CSTNode) -> bool:
    """Whether it is True or False, written out."""
    return isinstance(node, cst.Name) and node.value in ("True", "False")


def number(node: cst.CSTNode) -> Number | None:
    """What a literal is worth, also with a sign and as a product or power of literals; else None."""
    if isinstance(node, cst.Integer):
        return None if node.value[:2].lower() in ("0x", "0b", "0o") else node.evaluated_value
    if isinstance(node, cst.Float):
        return node.evaluated_value
    if isinstance(node, cst.Name) and is_boolean(node):
        return node.value == "True"
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        value = number(node.expression)
        return None if value is None else -value
    if isinstance(node, cst.BinaryOperation):
        left, right = number(node.left), number(node.right)
        return None if left is None or right is None else _result(node.operator, left, right)
    return None


def _result(operator: cst.BaseBinaryOp, left: Number, right: Number) -> Number | None:
    if isinstance(operator, cst.Multiply):
        return left * right
    if isinstance(operator, cst.Power) and left > 0 and abs(right) <= 64:
        return float(left**right) if isinstance(left**right, float) else int(left**right)
    if isinstance(operator, cst.LeftShift) and isinstance(left, int) and isinstance(right, int) and 0 <= right <= 64:
        return left << right
    return left / right if isinstance(operator, cst.Divide) and right else None


def _scale(label: str, value: Number) -> tuple[Kind, float, float, float] | None:
    """The kind, both ends and a first step of the scale that suits a value of this name."""
    named = words(label.partition(" of ")[0])
    if named & NEVER or not abs(value) < 1e15 or 0 < abs(value) < 1e-12:
        return None
    if isinstance(value, bool):
        return "switch", 0.0, 1.0, 1.0
    if isinstance(value, int):
        return _int_scale(value)
    if 0.99 <= value < 1 or (0.9 <= value < 1 and named & FRACTIONS):
        place = _place("complement", value)
        return "complement", place - 3, place + 3, 1.0
    if 0 <= value < 1 and named & FRACTIONS:
        if value > 0 and not ("decay" in named and value < 0.3):
            return "linear", max(0.0, value - 0.3), min(0.99, value + 0.3), 0.1
        if value == 0 and "decay" not in named:
            return "linear", 0.0, 0.5, 0.1
    if value == 0:
        return "zero", _LEAST_ZERO - 1, -3.0, 10.0
    place = _place("log", value)
    return "log", place - 3, place + 3, 1.0


def _int_scale(value: int) -> tuple[Kind, float, float, float] | None:
    if value in (0, -1):
        return ("count", 0.0, 4.0, 1.0) if value == 0 else None
    place = _place("log", value)
    if value >= 4 and value & (value - 1) == 0:
        return "powers", max(0.0, place - 3), place + 3, 1.0
    return "log", max(0.0, place - 2), place + 2, min(1.0, 0.585 if abs(value) < 8 else 1.0)


# --- writing them back ------------------------------------------------------------------------------------------------


def written(node: cst.BaseExpression, value: Number) -> cst.BaseExpression:
    """The literal for a value, in the manner of the one it replaces."""
    if isinstance(node, cst.BinaryOperation):
        kept = _same_form(node, value)
        if kept is not None:
            return kept
    new = cst.parse_expression(_text(value, code(node)))
    return new.with_changes(lpar=node.lpar, rpar=node.rpar) if node.lpar else new


def _same_form(node: cst.BinaryOperation, value: Number) -> cst.BaseExpression | None:
    """`2**15` with another exponent, `8 * 1024` with another factor, where that gives the value."""
    right = number(node.right)
    if isinstance(node.operator, cst.Power) and number(node.left) == 2 and isinstance(value, int):
        exponent = value.bit_length() - 1
        return node.with_changes(right=cst.Integer(str(exponent))) if 2**exponent == value else None
    if isinstance(node.operator, cst.Multiply) and isinstance(value, int) and right and value % right == 0:
        return node.with_changes(left=written(node.left, int(value // right)))
    return None


def _text(value: Number, like: str) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:_}" if "_" in like else str(value)
    plain = repr(value)
    if "e" not in like.lower() and "e" not in plain:
        return plain
    mantissa, _, exponent = f"{value:.10e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
