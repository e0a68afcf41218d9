"""The delete arm: takes something away to see whether it was needed. This is where simplifications come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial

import libcst as cst

from nightlab.proposer import Context
from nightlab.tuner.edit import Edit, Edits, Offer, offers
from nightlab.tuner.names import loads, place
from nightlab.tuner.space import NEVER, number, words
from nightlab.tuner.tree import Replacement, Tree, code, dotted, inside, parsed

LONGEST = 40
"""A block of more lines than this is the program, not a part of it that may be superfluous."""


RITUALS = words("print log logger logging save savez dump write seed super main")
NEEDED = words("axis dim size shape dtype keepdims strict key encoding")


def delete() -> Edits:
    """The arm that deletes."""
    return Edits("tuner.delete", delete_offers)


def delete_offers(context: Context) -> Iterator[Offer]:
    """Everything that could be left out of these files."""
    return iter(_found(tuple(sorted(context.files.items())), context.metric))


@lru_cache(maxsize=8)
def _found(files: tuple[tuple[str, str], ...], metric: str) -> tuple[Offer, ...]:
    mentions = {path: Counter(loads(tree)) for path, text in files if (tree := parsed(text)) is not None}
    return tuple(
        offer
        for path, text in files
        for elsewhere in [sum((m for other, m in mentions.items() if other != path), Counter[str]())]
        for offer in offers({path: text}, (partial(deletions, metric=metric, elsewhere=elsewhere),))
    )


def deletions(tree: Tree, metric: str, elsewhere: Mapping[str, int]) -> Iterator[Edit]:
    """Every statement, branch, argument and term that can go without leaving a name undefined, here or elsewhere."""
    used, spared = Counter(loads(tree)) + Counter(elsewhere), _measuring(tree, metric)
    for node in tree.nodes:
        if not spared.isdisjoint((node, *tree.above(node))):
            continue
        if isinstance(node, cst.SimpleStatementLine | cst.If | cst.For | cst.With | cst.FunctionDef | cst.ClassDef):
            yield from _statement(tree, node, used)
        elif isinstance(node, cst.Arg):
            yield from _argument(tree, node)
        elif isinstance(node, cst.BinaryOperation):
            yield from _term(tree, node)


def _measuring(tree: Tree, metric: str) -> set[cst.CSTNode]:
    """The lines that say the metric, what gives their names a value, and whole functions that evaluate.

    One step back only: what is measured further up may still be bent, and only a sealed evaluator sees that.
    """
    lines = [n for n in tree.nodes if isinstance(n, cst.SimpleStatementLine)]
    saying = {line for line in lines if metric and metric in code(line)}
    names = {n.value for line in saying for n in inside(line) if isinstance(n, cst.Name)}
    giving = {line for line in lines if _bound(line) & names}
    functions = [n for n in tree.nodes if isinstance(n, cst.FunctionDef)]
    returns = {
        line
        for line in lines
        if isinstance(line.body[-1], cst.Return) and getattr(tree.scope(line), "name", cst.Name("_")).value in names
    }
    return {*saying, *giving, *returns, *(f for f in functions if words(f.name.value) & NEVER)}


# --- statements -------------------------------------------------------------------------------------------------------


def _statement(tree: Tree, node: cst.BaseStatement, used: Counter[str]) -> Iterator[Edit]:
    about = place(tree, node)
    if isinstance(node, cst.If):
        yield from _branches(tree, node, used)
    elif len(getattr(tree.parents[node], "body", ())) == 1 or _is_public(tree, node):
        return  # the only one of its block: what holds the block is removed instead
    elif isinstance(node, cst.SimpleStatementLine):
        if all(_is_superfluous(s) for s in node.body) and not _leaves_undefined(node, used):
            yield Edit("statement", f"remove `{_short(node)}`{about}", {node: None})
    elif not _leaves_undefined(node, used) and code(node).count("\n") <= LONGEST:
        yield Edit("block", f"remove `{_short(node)}`{about}", {node: None})


def _is_public(tree: Tree, node: cst.BaseStatement) -> bool:
    """Whether someone outside may call it: a judge, a framework."""
    if not isinstance(node, cst.FunctionDef | cst.ClassDef) or isinstance(tree.scope(node), cst.FunctionDef):
        return False
    return not node.name.value.startswith("_") or node.name.value.startswith("__")


def _is_superfluous(node: cst.BaseSmallStatement) -> bool:
    """Whether its absence could show and still leave a program; docstrings and imports do not, jumps would not."""
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.Call) and not _is_ritual(node.value)
    is_kind = isinstance(node, cst.Assign | cst.AnnAssign | cst.AugAssign | cst.Assert | cst.Del)
    return is_kind and not any(words(name) & NEVER for name in _bound(node))


def _is_ritual(call: cst.Call) -> bool:
    """Whether it prints, saves, seeds, or is `super().__init__()`."""
    return bool(words(code(call.func)) & RITUALS)


def _bound(node: cst.CSTNode) -> set[str]:
    """The names and attributes that it gives a value to."""
    if isinstance(node, cst.FunctionDef | cst.ClassDef):
        return {node.name.value}
    found: set[str] = set()
    for part in inside(node):
        if isinstance(part, cst.AssignTarget | cst.AnnAssign | cst.For | cst.NamedExpr):
            target = part.target
            names = [e.value for e in target.elements] if isinstance(target, cst.Tuple) else [target]
            found |= {dotted(name).rpartition(".")[2] for name in names}
        elif isinstance(part, cst.FunctionDef | cst.ClassDef | cst.AsName):
            found.add(dotted(part.name).rpartition(".")[2])
        elif isinstance(part, cst.Import | cst.ImportFrom):
            found.add(code(part))
    return found - {""}


def _leaves_undefined(node: cst.CSTNode, used: Counter[str]) -> bool:
    """Whether a name it binds is used elsewhere, and it does not itself show that the name had a value before."""
    own = Counter(n.value for n in inside(node) if isinstance(n, cst.Name))
    bound = _bound(node)
    is_import = any(isinstance(n, cst.Import | cst.ImportFrom) for n in inside(node))
    return is_import or any(used[name] > own[name] - _given(node, name) for name in bound - _had_before(node))


def _had_before(node: cst.CSTNode) -> set[str]:
    """The names that it reads before it gives them a value."""
    bound: set[str] = set()
    before: set[str] = set()
    for part in inside(node):
        reads = part.value if isinstance(part, cst.Assign) else part.test if isinstance(part, cst.If) else None
        if reads is not None:
            before |= {n.value for n in inside(reads) if isinstance(n, cst.Name)} - bound
        if isinstance(part, cst.Assign):
            bound |= _bound(part)
    return before


def _given(node: cst.CSTNode, name: str) -> int:
    """How often the name stands in the node as a target rather than as a use."""
    if isinstance(node, cst.FunctionDef | cst.ClassDef):
        return 1
    return sum(
        1
        for part in inside(node)
        if isinstance(part, cst.AssignTarget | cst.AnnAssign | cst.For | cst.NamedExpr)
        for n in inside(part.target)
        if isinstance(n, cst.Name) and n.value == name
    )


def _branches(tree: Tree, node: cst.If, used: Counter[str]) -> Iterator[Edit]:
    if "__name__" in code(node.test) or isinstance(tree.parents[node], cst.If):
        return
    about, test = place(tree, node), f"`if {_cut(code(node.test))}`"
    if not _leaves_undefined(node, used) and code(node).count("\n") <= LONGEST and node.orelse is None:
        yield Edit("branch", f"remove {test}{about}", {node: None})
    if isinstance(node.body, cst.IndentedBlock) and not _ends_early(node.body):
        yield Edit("branch", f"do what follows {test}{about} always", {node: _freed(node, node.body)})
    otherwise = node.orelse.body if isinstance(node.orelse, cst.Else) else None
    if isinstance(otherwise, cst.IndentedBlock):
        yield Edit("branch", f"do what follows the else of {test}{about} always", {node: _freed(node, otherwise)})


def _ends_early(body: cst.IndentedBlock) -> bool:
    return any(isinstance(n, cst.Return | cst.Raise | cst.Break | cst.Continue) for n in inside(body))


def _freed(node: cst.If, body: cst.IndentedBlock) -> Replacement:
    first, *rest = body.body
    return (first.with_changes(leading_lines=(*node.leading_lines, *_lines(first))), *rest)


def _lines(node: cst.CSTNode) -> tuple[cst.EmptyLine, ...]:
    return tuple(getattr(node, "leading_lines", ()))


# --- arguments and terms ----------------------------------------------------------------------------------------------


def _argument(tree: Tree, node: cst.Arg) -> Iterator[Edit]:
    """An argument by keyword goes, so that its default speaks."""
    call = tree.parents[node]
    if node.keyword is None or not isinstance(call, cst.Call) or words(node.keyword.value) & (NEVER | NEEDED):
        return
    if dotted(call.func) in ("dict", "print") or _is_required(tree, call, node.keyword.value):
        return
    left = [a for a in call.args if a is not node]
    if left and left[-1] is not call.args[-1]:
        left[-1] = left[-1].with_changes(comma=call.args[-1].comma)
    words_ = f"leave {code(node.keyword)}={_cut(code(node.value))} out of {_cut(code(call.func))}()"
    yield Edit("argument", words_ + place(tree, node), {call: call.with_changes(args=left)})


def _is_required(tree: Tree, call: cst.Call, name: str) -> bool:
    """Whether a function or class of this file is called and gives the parameter no default."""
    for node in tree.nodes:
        if isinstance(node, cst.FunctionDef | cst.ClassDef) and node.name.value == dotted(call.func).rpartition(".")[2]:
            params = {p.name.value: p.default for p in inside(node) if isinstance(p, cst.Param)}
            fields = {dotted(a.target): a.value for a in inside(node) if isinstance(a, cst.AnnAssign)}
            return {**fields, **params}.get(name) is None
    return False


def _term(tree: Tree, node: cst.BinaryOperation) -> Iterator[Edit]:
    """One side of a sum goes, or one factor of a product."""
    if number(node) is not None or _is_index(tree, node) or _is_text(node):
        return
    about = place(tree, node)
    if isinstance(node.operator, cst.Add | cst.Subtract):
        yield Edit("term", f"drop the term `{_cut(code(node.right))}`{about}", {node: _as(node, node.left)})
        if isinstance(node.operator, cst.Add):
            yield Edit("term", f"drop the term `{_cut(code(node.left))}`{about}", {node: _as(node, node.right)})
    elif isinstance(node.operator, cst.Multiply):
        for gone, left in ((node.right, node.left), (node.left, node.right)):
            if number(gone) is not None or isinstance(gone, cst.BinaryOperation):
                yield Edit("term", f"drop the factor `{_cut(code(gone))}`{about}", {node: _as(node, left)})


def _as(node: cst.BinaryOperation, part: cst.BaseExpression) -> cst.BaseExpression:
    """The part, within the brackets of the whole."""
    return part.with_changes(lpar=(*node.lpar, *part.lpar), rpar=(*part.rpar, *node.rpar))


def _is_index(tree: Tree, node: cst.CSTNode) -> bool:
    return any(isinstance(n, cst.Index | cst.Slice) for n in tree.above(node))


def _is_text(node: cst.BinaryOperation) -> bool:
    strings = cst.SimpleString | cst.FormattedString | cst.ConcatenatedString | cst.List
    return any(isinstance(n, strings) for n in inside(node))


def _short(node: cst.CSTNode) -> str:
    bare = node.with_changes(leading_lines=()) if hasattr(node, "leading_lines") else node
    return _cut(code(bare).strip())


def _cut(text: str) -> str:
    """Its first line, at most forty characters of it."""
    line = text.strip().splitlines()[0].partition("  #")[0].rstrip(":")
    return line if len(line) <= 40 else line[:39] + "…"
