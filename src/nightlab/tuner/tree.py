"""A parsed file: its nodes, who holds whom, and the text it becomes when some of them are replaced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache

import libcst as cst

Replacement = cst.CSTNode | tuple[cst.CSTNode, ...] | None
"""What stands in a node's place: another, several (statements), or nothing."""

Swaps = Mapping[cst.CSTNode, Replacement]

DEEPEST = 120
"""libcst takes about five frames of the stack per level, and a thousand are there."""

_MARKED = re.compile(r"EVOLVE-BLOCK-START.*?EVOLVE-BLOCK-END", re.DOTALL)
"""Where a task of another system says that only this much may change."""

_SPACE = (cst.BaseParenthesizableWhitespace, cst.TrailingWhitespace, cst.EmptyLine, cst.Newline, cst.Comment)


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One file. `nodes` stand in the order of the text, the outer before the inner."""

    text: str
    module: cst.Module
    nodes: tuple[cst.CSTNode, ...]
    parents: Mapping[cst.CSTNode, cst.CSTNode]

    def above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """Whoever holds the node, the nearest first."""
        while (node := self.parents.get(node, self.module)) is not self.module:
            yield node
        yield self.module

    def scope(self, node: cst.CSTNode) -> cst.FunctionDef | cst.ClassDef | cst.Module:
        """The function, class or module it stands in."""
        return next(n for n in self.above(node) if isinstance(n, cst.FunctionDef | cst.ClassDef | cst.Module))

    def home(self, node: cst.CSTNode) -> str:
        """The names of the classes and functions around it, as in `Model.forward`; empty at module level."""
        names = [n.name.value for n in self.above(node) if isinstance(n, cst.FunctionDef | cst.ClassDef)]
        return ".".join(reversed(names))


@lru_cache(maxsize=128)
def parsed(text: str) -> Tree | None:
    """The file's tree; None where the text is not Python, or nested deeper than libcst can write back."""
    try:
        module = cst.parse_module(text)
    except (cst.ParserSyntaxError, UnicodeEncodeError):
        return None
    parents: dict[cst.CSTNode, cst.CSTNode] = {}
    nodes = tuple(_walk(module, parents))
    depths: dict[cst.CSTNode, int] = {module: 0}
    for node in nodes[1:]:
        depths[node] = depths[parents[node]] + 1
    return Tree(text, module, nodes, parents) if max(depths.values()) <= DEEPEST else None


def _walk(root: cst.CSTNode, parents: dict[cst.CSTNode, cst.CSTNode]) -> Iterator[cst.CSTNode]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        held = children(node)
        parents.update(dict.fromkeys(held, node))
        waiting.extend(reversed(held))


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The nodes it holds directly, spaces and comments left out."""
    held: list[cst.CSTNode] = []
    for name in _fields(type(node)):
        value = getattr(node, name)
        for one in value if isinstance(value, list | tuple) else (value,):
            if _is_shown(type(one)):  # type: ignore[arg-type]  # a class can be hashed
                held.append(one)
    return held


@cache
def _is_shown(kind: type) -> bool:
    """Whether it is a node that says something. Asked by type: libcst's own instance checks are slow."""
    return issubclass(kind, cst.CSTNode) and not issubclass(kind, _SPACE)


@cache
def _fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if "whitespace" not in f.name and f.name not in ("lpar", "rpar"))


def inside(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The node and everything in it."""
    return _walk(node, {})


def rewritten(tree: Tree, swaps: Swaps) -> str:
    """The file's text with these nodes replaced and every other character as it was."""
    return tree.module.visit(_Swap(tree, swaps)).code


class _Swap(cst.CSTTransformer):
    def __init__(self, tree: Tree, swaps: Swaps) -> None:
        super().__init__()
        self._swaps = swaps
        self._way = {above for node in swaps for above in tree.above(node)}

    def on_visit(self, node: cst.CSTNode) -> bool:
        return node in self._way

    def on_leave(  # type: ignore[override]  # a node may give way to none or to several
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]:
        if original_node not in self._swaps:
            return updated_node
        new = self._swaps[original_node]
        if isinstance(new, tuple):
            return cst.FlattenSentinel(new)
        return cst.RemoveFromParent() if new is None else new


_BLANK = cst.Module([])


def code(node: cst.CSTNode) -> str:
    """The node's own text."""
    return _BLANK.code_for_node(node)


def dotted(node: cst.CSTNode) -> str:
    """`a.b.c` for names and attributes of names, else the empty string."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr.value}"
    return ""


def is_marked(text: str) -> bool:
    """Whether a file says by EVOLVE-BLOCK marks what may change."""
    return _MARKED.search(text) is not None


def stays_within_marks(before: str, after: str) -> bool:
    """Whether what changed stands between a file's EVOLVE-BLOCK marks; always, where it has none."""
    return not is_marked(before) or _MARKED.sub("", before) == _MARKED.sub("", after)
