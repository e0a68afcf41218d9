"""Names in a file: what a dotted name stands for, how to spell a thing there, and small questions about nodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import libcst as cst

from nightlab.tuner.space import Number, number
from nightlab.tuner.tree import Tree, code, dotted


@lru_cache(maxsize=128)
def imported(tree: Tree) -> dict[str, str]:
    """Name in this file -> what was imported under it: `F` -> `torch.nn.functional`."""
    found: dict[str, str] = {}
    for node in tree.nodes:
        if isinstance(node, cst.Import):
            for one in node.names:
                name = dotted(one.name)
                found[_asname(one) or name.partition(".")[0]] = name if one.asname else name.partition(".")[0]
        elif isinstance(node, cst.ImportFrom) and node.module and not isinstance(node.names, cst.ImportStar):
            for one in node.names:
                found[_asname(one) or dotted(one.name)] = f"{dotted(node.module)}.{dotted(one.name)}"
    return found


def _asname(alias: cst.ImportAlias) -> str:
    return dotted(alias.asname.name) if alias.asname else ""


def meaning(tree: Tree, node: cst.CSTNode) -> str:
    """The full name behind a name as written: `F.relu` -> `torch.nn.functional.relu`; empty for none."""
    first, dot, rest = dotted(node).partition(".")
    source = imported(tree).get(first)
    return f"{source}{dot}{rest}" if source else ""


def spelled(tree: Tree, full: str) -> str | None:
    """How to write a full name in this file, the shortest way; None where nothing imported leads to it."""
    ways = [
        local + full.removeprefix(source)
        for local, source in imported(tree).items()
        if full == source or full.startswith(f"{source}.")
    ]
    return min(ways, key=len, default=None)


def calls(tree: Tree, *full: str) -> Iterator[cst.Call]:
    """Every call of one of these, by full name."""
    return (n for n in tree.nodes if isinstance(n, cst.Call) and meaning(tree, n.func) in full)


def expression(text: str) -> cst.BaseExpression:
    """The expression that this text is; lines that only brackets held together are held again."""
    return cst.parse_expression(f"({text})" if "\n" in text else text)


def statements(text: str) -> tuple[cst.CSTNode, ...]:
    """The statements that this text is."""
    return tuple(cst.parse_module(text).body)


def factor(node: cst.BaseExpression) -> str:
    """Its text, in brackets where a product would tear it apart."""
    text = code(node)
    is_open = isinstance(node, cst.BinaryOperation | cst.Comparison | cst.BooleanOperation | cst.IfExp | cst.Lambda)
    return f"({text})" if is_open and not node.lpar else text


def place(tree: Tree, node: cst.CSTNode) -> str:
    """` in train()`, or nothing at module level: for the end of a hypothesis."""
    home = tree.home(node)
    return f" in {home}()" if home else ""


def positional(call: cst.Call) -> list[cst.BaseExpression]:
    """The arguments given by place."""
    return [a.value for a in call.args if a.keyword is None and not a.star]


def keyword(call: cst.Call, name: str) -> cst.Arg | None:
    """The argument given by this name."""
    return next((a for a in call.args if a.keyword is not None and a.keyword.value == name), None)


def loads(tree: Tree) -> Iterator[str]:
    """Every name and attribute that is mentioned other than to give it a value or to import it."""
    for node in tree.nodes:
        if isinstance(node, cst.Name) and not _is_target(tree, node):
            yield node.value


def _is_target(tree: Tree, node: cst.Name) -> bool:
    holder = tree.parents.get(node)
    if isinstance(holder, cst.Attribute) and holder.attr is node:
        return isinstance(tree.parents.get(holder), cst.AssignTarget)
    if isinstance(holder, cst.AnnAssign):
        return holder.target is node
    if isinstance(holder, cst.FunctionDef | cst.ClassDef | cst.Param):
        return holder.name is node
    if isinstance(holder, cst.Arg):
        return holder.keyword is node
    if isinstance(holder, cst.Element):
        row = tree.parents[holder]
        return isinstance(tree.parents.get(row), cst.AssignTarget | cst.For)
    return isinstance(holder, cst.AssignTarget | cst.ImportAlias | cst.AsName) or (
        isinstance(holder, cst.For) and holder.target is node
    )


def known(tree: Tree, name: str) -> Number | None:
    """The number a plain name is given first in the file, as a constant or as a default."""
    for node in tree.nodes:
        if isinstance(node, cst.Assign) and any(dotted(t.target) == name for t in node.targets):
            value = number(node.value)
        elif isinstance(node, cst.Param) and node.name.value == name and node.default is not None:
            default = dotted(node.default)
            value = known(tree, default) if default and default != name else number(node.default)
        else:
            continue
        if value is not None and not isinstance(value, bool):
            return value
    return None


def statement(tree: Tree, node: cst.CSTNode) -> cst.CSTNode:
    """The line or block it is part of."""
    return next(n for n in (node, *tree.above(node)) if isinstance(n, cst.BaseStatement))


def enclosing(tree: Tree, node: cst.CSTNode) -> Iterator[cst.For | cst.While]:
    """The loops around it within its function, the outermost last."""
    for above in tree.above(node):
        if isinstance(above, cst.FunctionDef | cst.ClassDef):
            return
        if isinstance(above, cst.For | cst.While):
            yield above


def progress(tree: Tree, node: cst.CSTNode) -> tuple[str, str] | None:
    """The counter and the total of the outermost counting loop around it: (`step`, `STEPS`)."""
    found = None
    for loop in enclosing(tree, node):
        found = _counting(tree, loop) or found
    return found


_NOT_A_CLOCK = ("seed", "run", "trial", "fold", "repeat", "_")


def _counting(tree: Tree, loop: cst.For | cst.While) -> tuple[str, str] | None:
    if isinstance(loop, cst.While):
        test = loop.test
        if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
            return None
        first, right = test.comparisons[0], test.comparisons[0].comparator
        is_below = isinstance(first.operator, cst.LessThan) and isinstance(test.left, cst.Name)
        return (code(test.left), factor(right)) if is_below else None
    if not isinstance(loop.target, cst.Name) or loop.target.value in _NOT_A_CLOCK:
        return None
    if isinstance(loop.iter, cst.Call) and dotted(loop.iter.func) == "range" and len(loop.iter.args) in (1, 2):
        return loop.target.value, factor(loop.iter.args[-1].value)
    return None
