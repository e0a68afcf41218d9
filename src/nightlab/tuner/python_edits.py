"""Edits for any Python program: speed without a change of meaning, choices among strings, shared sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import libcst as cst

from nightlab.tuner.edit import Edit
from nightlab.tuner.names import enclosing, expression, meaning, place
from nightlab.tuner.space import NEVER, number, words
from nightlab.tuner.tree import Swaps, Tree, code, dotted, inside

# --- speed ------------------------------------------------------------------------------------------------------------

PURE = words(
    "abs all any bool chr divmod enumerate float int len max min ord pow range reversed round sorted str sum tuple zip"
)


def memoise(tree: Tree) -> Iterator[Edit]:
    """A function of plain values that looks pure and calls itself, or is called in a loop, remembers its answers."""
    called = [n for n in tree.nodes if isinstance(n, cst.Call) and isinstance(n.func, cst.Name)]
    for node in tree.module.body:
        if not isinstance(node, cst.FunctionDef) or node.decorators or node.asynchronous or not _looks_pure(tree, node):
            continue
        name = node.name.value
        sites = [c for c in called if dotted(c.func) == name]
        if any(node in tree.above(c) or any(enclosing(tree, c)) for c in sites):
            new = node.with_changes(
                decorators=[cst.Decorator(expression("functools.cache"))], lines_after_decorators=()
            )
            yield Edit("memoise", f"remember the answers of {name}()", {node: new}, "import functools\n")


_IMPURE = (cst.Global, cst.Nonlocal, cst.Yield, cst.Await, cst.Del, cst.Lambda, cst.FunctionDef, cst.With)
_MUTABLE = (cst.List, cst.Dict, cst.Set, cst.BaseComp)


def _looks_pure(tree: Tree, function: cst.FunctionDef) -> bool:
    """Whether it takes plain values and only computes: an argument that is indexed or walked may not be hashable."""
    names = {p.name.value for p in function.params.params}
    within = list(inside(function.body))
    returned = [n.value for n in within if isinstance(n, cst.Return) and n.value is not None]
    if not names or not returned or len(function.params.params) != len(_all(function)):
        return False
    if any(isinstance(n, _MUTABLE) for value in returned for n in inside(value)):
        return False
    return all(_is_pure(tree, node, function.name.value, names) for node in within)


def _is_pure(tree: Tree, node: cst.CSTNode, own: str, names: set[str]) -> bool:
    if isinstance(node, _IMPURE):
        return False
    if isinstance(node, cst.AssignTarget | cst.AugAssign):
        return isinstance(node.target, cst.Name | cst.Tuple)
    if isinstance(node, cst.Subscript):
        return dotted(node.value) not in names
    if isinstance(node, cst.For | cst.CompFor):
        return dotted(node.iter) not in names
    return not isinstance(node, cst.Call) or _is_pure_call(tree, node, own, names)


def _all(function: cst.FunctionDef) -> list[cst.CSTNode]:
    return [n for n in inside(function.params) if isinstance(n, cst.Param)]


def _is_pure_call(tree: Tree, call: cst.Call, own: str, names: set[str]) -> bool:
    name = dotted(call.func)
    if any(dotted(a.value) in names for a in call.args) and name in ("len", "sum", "all", "any", "sorted", "enumerate"):
        return False
    return name == own or name in PURE or meaning(tree, call.func).startswith("math.")


def hoist_lookup(tree: Tree) -> Iterator[Edit]:
    """A `math.x` called in a function's loop becomes a default argument, looked up once."""
    sites: dict[tuple[cst.FunctionDef, str], list[cst.Call]] = defaultdict(list)
    for node in tree.nodes:
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and any(enclosing(tree, node)):
            scope = tree.scope(node)
            if meaning(tree, node.func).startswith("math.") and isinstance(scope, cst.FunctionDef):
                sites[scope, dotted(node.func)].append(node)
    for (function, name), found in sites.items():
        short = name.rpartition(".")[2]
        params = function.params
        is_plain = not params.kwonly_params and isinstance(params.star_arg, cst.MaybeSentinel) and not params.star_kwarg
        if is_plain and short not in _bare_names(tree, function):
            default = cst.Param(cst.Name(short), default=expression(name), equal=cst.AssignEqual(*_TIGHT))
            with_it = params.with_changes(params=[*_spaced(params.params), default])
            swaps: Swaps = {params: with_it, **{c.func: cst.Name(short) for c in found}}
            yield Edit("hoist", f"look {name} up once{place(tree, found[0])}", swaps)


_TIGHT = (cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def _bare_names(tree: Tree, function: cst.FunctionDef) -> set[str]:
    """The names in a function that are not attributes of something."""
    names = [n for n in inside(function) if isinstance(n, cst.Name)]
    return {n.value for n in names if getattr(tree.parents[n], "attr", None) is not n}


def _spaced(params: Sequence[cst.Param]) -> list[cst.Param]:
    """The same parameters, each with a comma that another can follow."""
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    return [p if isinstance(p.comma, cst.Comma) else p.with_changes(comma=comma) for p in params]


def multiply_square(tree: Tree) -> Iterator[Edit]:
    """`x ** 2` of a name becomes `x * x`, everywhere within one function."""
    sites: dict[str, list[cst.BinaryOperation]] = defaultdict(list)
    for node in tree.nodes:
        if not isinstance(node, cst.BinaryOperation) or not isinstance(node.operator, cst.Power):
            continue
        if isinstance(node.left, cst.Name) and not node.left.lpar and number(node.right) == 2:
            sites[tree.home(node)].append(node)
    for found in sites.values():
        swaps: Swaps = {n: expression(f"({code(n.left)} * {code(n.left)})") for n in found}
        yield Edit("square", f"multiply instead of ** 2{place(tree, found[0])}", swaps)


def comprehend(tree: Tree) -> Iterator[Edit]:
    """An empty list and a loop that only appends to it become one comprehension."""
    for block in tree.nodes:
        body = block.body if isinstance(block, cst.Module | cst.IndentedBlock) else ()
        for first, loop in pairwise(body):
            empty = _empty_list(first)
            text = _as_comprehension(*empty, loop) if empty and isinstance(loop, cst.For) else None
            if empty and text:
                words_ = f"build {empty[0]} in a comprehension{place(tree, loop)}"
                yield Edit("comprehension", words_, {empty[1]: expression(f"[{text}]"), loop: None})


def _empty_list(line: cst.CSTNode) -> tuple[str, cst.List] | None:
    """The name that gets an empty list, and that list."""
    assign = line.body[0] if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    if not isinstance(assign, cst.Assign) or len(assign.targets) != 1:
        return None
    name = dotted(assign.targets[0].target)
    return (name, assign.value) if name and isinstance(assign.value, cst.List) and not assign.value.elements else None


def _as_comprehension(name: str, _: cst.List, loop: cst.For) -> str | None:
    if loop.orelse is not None or loop.asynchronous is not None or "#" in code(loop):
        return None
    only, test = _only(loop.body), None
    if isinstance(only, cst.If) and only.orelse is None:
        test = only.test
        only = _only(only.body)
    call = only.value if isinstance(only, cst.Expr) else None
    if not isinstance(call, cst.Call) or len(call.args) != 1 or code(call.func) != f"{name}.append":
        return None
    new = call.args[0]
    parts = [new, loop.iter, *([test] if test else [])]
    is_odd = any(isinstance(n, cst.Await | cst.Yield | cst.NamedExpr) for n in inside(loop))
    if is_odd or new.star or any(name in code(part) for part in parts):
        return None
    return f"{code(new.value)} for {code(loop.target)} in {code(loop.iter)}" + (f" if {code(test)}" if test else "")


def _names(node: cst.CSTNode) -> set[str]:
    return {n.value for n in inside(node) if isinstance(n, cst.Name)}


def _only(body: cst.BaseSuite) -> cst.CSTNode | None:
    """The one statement of a block that has one."""
    if len(body.body) != 1:
        return None
    line = body.body[0]
    return line.body[0] if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else line


def literal_set(tree: Tree) -> Iterator[Edit]:
    """`in [1, 2]` becomes `in {1, 2}` where all are plain literals."""
    for node in tree.nodes:
        if isinstance(node, cst.ComparisonTarget) and isinstance(node.operator, cst.In | cst.NotIn):
            row = node.comparator
            if isinstance(row, cst.List | cst.Tuple) and row.elements and all(_is_plain(e.value) for e in row.elements):
                new = expression("{" + ", ".join(code(e.value) for e in row.elements) + "}")
                yield Edit("set", f"look up in a set instead of {code(row)}{place(tree, node)}", {row: new})


def _is_plain(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.SimpleString) or number(node) is not None


# --- choices and sizes ------------------------------------------------------------------------------------------------


def choose_string(tree: Tree) -> Iterator[Edit]:
    """A named string takes another of the values that the file compares it with or looks it up in."""
    for name, node in _named_strings(tree):
        value = node.raw_value
        for other in _alternatives(tree, name, value):
            quote = node.quote
            words_ = f'set {name} to "{other}" instead of "{value}"{place(tree, node)}'
            yield Edit("choice", words_, {node: node.with_changes(value=f"{node.prefix}{quote}{other}{quote}")})


def _named_strings(tree: Tree) -> Iterator[tuple[str, cst.SimpleString]]:
    for node in tree.nodes:
        if isinstance(node, cst.Assign | cst.AnnAssign) and isinstance(node.value, cst.SimpleString):
            target = node.targets[0].target if isinstance(node, cst.Assign) else node.target
            name, value = dotted(target).rpartition(".")[2], node.value
        elif isinstance(node, cst.Param) and isinstance(node.default, cst.SimpleString):
            name, value = node.name.value, node.default
        elif isinstance(node, cst.Arg) and node.keyword is not None and isinstance(node.value, cst.SimpleString):
            name, value = node.keyword.value, node.value
        else:
            continue
        if name and not words(name) & NEVER and "b" not in value.prefix:
            yield name, value


def _alternatives(tree: Tree, name: str, value: str) -> list[str]:
    found: dict[str, None] = {}
    for node in tree.nodes:
        if isinstance(node, cst.Dict):
            keys = [
                e.key.raw_value
                for e in node.elements
                if isinstance(e, cst.DictElement) and isinstance(e.key, cst.SimpleString)
            ]
            found.update(dict.fromkeys(keys if value in keys and _is_looked_up(tree, node, name) else ()))
        elif isinstance(node, cst.Comparison) and dotted(node.left).rpartition(".")[2] == name:
            found.update(dict.fromkeys(_strings(node)))
        elif isinstance(node, cst.Match) and dotted(node.subject).rpartition(".")[2] == name:
            found.update(dict.fromkeys(s for case in node.cases for s in _strings(case.pattern)))
    return [other for other in found if other != value]


def _is_looked_up(tree: Tree, table: cst.Dict, name: str) -> bool:
    """Whether the table is indexed by the name, directly or under its own."""
    holder = tree.parents[table]
    own = {code(table)} | ({code(t.target) for t in holder.targets} if isinstance(holder, cst.Assign) else set())
    return any(
        (isinstance(n, cst.Subscript) and code(n.value) in own and name in _names(n.slice[0]))
        or (
            isinstance(n, cst.Call)
            and isinstance(n.func, cst.Attribute)
            and n.func.attr.value == "get"
            and code(n.func.value) in own
            and any(name in _names(a) for a in n.args)
        )
        for n in tree.nodes
    )


def _strings(node: cst.CSTNode) -> Iterator[str]:
    return (n.raw_value for n in inside(node) if isinstance(n, cst.SimpleString))


def resize(tree: Tree) -> Iterator[Edit]:
    """A size written out in several calls, doubled or halved in all of them."""
    sites: dict[tuple[str, int], list[cst.Integer]] = defaultdict(list)
    for node in tree.nodes:
        if isinstance(node, cst.Integer) and node.evaluated_value >= 8 and _is_size(tree, node):
            sites[tree.home(node).partition(".")[0], node.evaluated_value].append(node)
    for (_, size), found in sites.items():
        for verb, other in (("double", 2 * size), ("halve", size // 2)):
            if len(found) > 1:
                words_ = f"{verb} the shared size {size} to {other}{place(tree, found[0])}"
                yield Edit("size", words_, {n: cst.Integer(str(other)) for n in found})


def _is_size(tree: Tree, node: cst.Integer) -> bool:
    holder = tree.parents[node]
    if isinstance(holder, cst.Element):
        holder = tree.parents[tree.parents[holder]]
    if isinstance(holder, cst.Arg):
        call = tree.parents[holder]
        return isinstance(call, cst.Call) and dotted(call.func) not in ("range", "print", "round")
    return False


def deepen(tree: Tree) -> Iterator[Edit]:
    """Layers built in a comprehension over `range(n)`: one more, one fewer."""
    for node in tree.nodes:
        if not isinstance(node, cst.ListComp | cst.GeneratorExp) or not isinstance(node.elt, cst.Call):
            continue
        over = node.for_in.iter
        depth = number(over.args[0].value) if isinstance(over, cst.Call) and len(over.args) == 1 else None
        if isinstance(over, cst.Call) and dotted(over.func) == "range" and isinstance(depth, int) and 2 <= depth <= 64:
            for other in (depth + 1, depth - 1):
                words_ = f"build {other} of {code(node.elt.func)} instead of {depth}{place(tree, node)}"
                yield Edit("depth", words_, {over.args[0].value: cst.Integer(str(other))})


TRANSFORMS = (
    memoise,
    hoist_lookup,
    multiply_square,
    comprehend,
    literal_set,
    choose_string,
    resize,
    deepen,
)


def python_edits(tree: Tree) -> Iterator[Edit]:
    """All of them, for any file."""
    for transform in TRANSFORMS:
        yield from transform(tree)
