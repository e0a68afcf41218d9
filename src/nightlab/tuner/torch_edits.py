"""Edits for torch scripts: activations, norms, initialisation, optimisers, schedules, clipping, tied weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import libcst as cst

from nightlab.tuner.edit import Edit
from nightlab.tuner.names import (
    calls,
    expression,
    factor,
    imported,
    keyword,
    meaning,
    place,
    positional,
    progress,
    spelled,
    statement,
    statements,
)
from nightlab.tuner.space import number, rounded
from nightlab.tuner.tree import Swaps, Tree, code, dotted

NN, FUNCTIONAL, OPTIM = "torch.nn", "torch.nn.functional", "torch.optim"
MODULES = ("ReLU", "GELU", "SiLU", "Tanh")
FUNCTIONS = ("relu", "gelu", "silu", "tanh")
OPTIMISERS = ("SGD", "Adam", "AdamW", "RMSprop")


def swap_activation(tree: Tree) -> Iterator[Edit]:
    """relu, gelu, silu and tanh for each other, as functions; all of a kind within one function at once."""
    sites: dict[tuple[str, str], list[cst.CSTNode]] = defaultdict(list)
    for node in tree.nodes:
        front, _, name = meaning(tree, node).rpartition(".")
        if front in (FUNCTIONAL, "torch") and name in FUNCTIONS:
            sites[tree.home(node), name].append(node)
    for (_, name), nodes in sites.items():
        for other in FUNCTIONS:
            new = spelled(tree, f"{FUNCTIONAL}.{other}")
            if other != name and new:
                words = f"use {other} instead of {name}{place(tree, nodes[0])}"
                yield Edit("activation", words, {n: expression(new) for n in nodes})


def square_relu(tree: Tree) -> Iterator[Edit]:
    """`F.relu(x)` squared, where it is not yet."""
    for call in calls(tree, f"{FUNCTIONAL}.relu", "torch.relu"):
        holder = tree.parents[call]
        if not (isinstance(holder, cst.Attribute) and holder.attr.value in ("square", "pow")):
            yield Edit(
                "activation", f"square the relu{place(tree, call)}", {call: expression(f"{code(call)}.square()")}
            )


def swap_activation_module(tree: Tree) -> Iterator[Edit]:
    """nn.ReLU, nn.GELU, nn.SiLU and nn.Tanh for each other."""
    sites: dict[tuple[str, str], list[cst.Call]] = defaultdict(list)
    for call in calls(tree, *(f"{NN}.{name}" for name in MODULES)):
        sites[tree.home(call), meaning(tree, call.func).rpartition(".")[2]].append(call)
    for (_, name), nodes in sites.items():
        for other in MODULES:
            new = spelled(tree, f"{NN}.{other}")
            if other != name and new:
                words = f"use {other} instead of {name}{place(tree, nodes[0])}"
                yield Edit("activation", words, {n: expression(f"{new}()") for n in nodes})


_NORMS = {
    f"{NN}.LayerNorm": f"{NN}.RMSNorm",
    f"{NN}.RMSNorm": f"{NN}.LayerNorm",
    f"{FUNCTIONAL}.layer_norm": f"{FUNCTIONAL}.rms_norm",
    f"{FUNCTIONAL}.rms_norm": f"{FUNCTIONAL}.layer_norm",
}


def swap_norm(tree: Tree) -> Iterator[Edit]:
    """Layer norm for RMS norm and back, everywhere in the file; what only one of them takes is left out."""
    for old, other in _NORMS.items():
        sites = list(calls(tree, old))
        new = spelled(tree, other)
        if sites and new:
            names = (old.rpartition(".")[2], other.rpartition(".")[2])
            yield Edit("norm", "use {1} instead of {0}".format(*names), {c: _norm_call(c, new) for c in sites})


def _norm_call(call: cst.Call, new: str) -> cst.BaseExpression:
    arguments = [code(value) for value in positional(call)[: 2 if new.endswith("_norm") else 1]]
    eps = keyword(call, "eps")
    return expression(f"{new}({', '.join([*arguments, *([f'eps={code(eps.value)}'] if eps else [])])})")


def add_norm(tree: Tree) -> Iterator[Edit]:
    """`x + f(x)` becomes `x + f(norm(x))`: a residual branch that sees a normalised input."""
    norm = spelled(tree, f"{FUNCTIONAL}.layer_norm")
    for node in tree.nodes if norm else ():
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Add):
            stream, branch = node.left, node.right
        elif isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.AddAssign):
            stream, branch = node.target, node.value
        else:
            continue
        if isinstance(branch, cst.Call) and len(branch.args) == 1 and dotted(stream) == code(branch.args[0].value):
            new = expression(f"{norm}({code(stream)}, {code(stream)}.shape[-1:])")
            words = f"normalise the input of {code(branch.func)}{place(tree, node)}"
            yield Edit("norm", words, {branch.args[0].value: new})


def swap_init(tree: Tree) -> Iterator[Edit]:
    """Weights drawn from a plain normal: drawn by fan-in, fan-in and fan-out, or orthogonal instead."""
    for call in calls(tree, f"{NN}.init.normal_", f"{NN}.init.trunc_normal_", f"{NN}.init.uniform_"):
        given = positional(call)
        if not given or "weight" not in code(given[0]):
            continue
        for name in ("kaiming_normal_", "xavier_uniform_", "orthogonal_"):
            new = spelled(tree, f"{NN}.init.{name}")
            words = f"initialise {code(given[0])} with {name.rstrip('_')}{place(tree, call)}"
            yield Edit("init", words, {call: expression(f"{new}({code(given[0])})")})


def swap_optimiser(tree: Tree) -> Iterator[Edit]:
    """SGD, Adam, AdamW and RMSprop for each other; the rate moves with it between SGD's size and Adam's."""
    for call in calls(tree, *(f"{OPTIM}.{name}" for name in OPTIMISERS)):
        name = meaning(tree, call.func).rpartition(".")[2]
        for other in OPTIMISERS:
            new = spelled(tree, f"{OPTIM}.{other}")
            if other != name and new:
                yield Edit(
                    "optimiser",
                    f"use {other} instead of {name}{place(tree, call)}",
                    {call: expression(f"{new}({', '.join(_optimiser_arguments(call, name, other))})")},
                )


def _optimiser_arguments(call: cst.Call, name: str, other: str) -> Iterator[str]:
    yield from (code(value) for value in positional(call)[:1])
    shared = {"params", "weight_decay"} | (
        {"betas", "eps"} if name.startswith("Adam") == other.startswith("Adam") else set()
    )
    lr = keyword(call, "lr")
    if lr is not None:
        yield f"lr={_other_rate(lr.value, (other == 'SGD') - (name == 'SGD'))}"
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value in shared:
            yield f"{arg.keyword.value}={code(arg.value)}"
    if other == "SGD":
        yield "momentum=0.9"


def _other_rate(rate: cst.BaseExpression, towards_sgd: int) -> str:
    value = number(rate)
    if towards_sgd == 0:
        return code(rate)
    if value is not None:
        return repr(rounded(value * 30.0**towards_sgd))
    return f"{factor(rate)} {'*' if towards_sgd > 0 else '/'} 30"


def add_momentum(tree: Tree) -> Iterator[Edit]:
    """SGD that has no momentum gets it."""
    for call in calls(tree, f"{OPTIM}.SGD"):
        if keyword(call, "momentum") is None:
            words = f"give SGD a momentum of 0.9{place(tree, call)}"
            yield Edit("momentum", words, {call: _with_argument(call, "momentum=0.9, nesterov=True")})


def add_weight_decay(tree: Tree) -> Iterator[Edit]:
    """An optimiser that names no weight decay gets a small one."""
    for call in calls(tree, *(f"{OPTIM}.{name}" for name in OPTIMISERS)):
        if keyword(call, "weight_decay") is None:
            words = f"add weight decay 0.01 to {code(call.func)}{place(tree, call)}"
            yield Edit("weight decay", words, {call: _with_argument(call, "weight_decay=0.01")})


def _with_argument(call: cst.Call, text: str) -> cst.Call:
    extra = cst.ensure_type(expression(f"f({text})"), cst.Call).args
    before = [a.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))) for a in call.args[-1:]]
    return call.with_changes(args=[*call.args[:-1], *before, *extra])


def _steps(tree: Tree) -> Iterator[tuple[cst.SimpleStatementLine, str]]:
    """The lines that step an optimiser made in this file, and its name."""
    made = {
        code(target.target)
        for node in tree.nodes
        if isinstance(node, cst.Assign) and isinstance(node.value, cst.Call)
        if meaning(tree, node.value.func).startswith(f"{OPTIM}.")
        for target in node.targets
    }
    for node in tree.nodes:
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value == "step":
            line = statement(tree, node)
            if code(node.func.value) in made and isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:
                yield line, code(node.func.value)


def _before(line: cst.SimpleStatementLine, text: str) -> Swaps:
    first, *rest = statements(text)
    return {line: (first.with_changes(leading_lines=line.leading_lines), *rest, line.with_changes(leading_lines=()))}


def schedule(tree: Tree) -> Iterator[Edit]:
    """A rate that falls over a counting loop, by a line or by a cosine, where none is set yet."""
    if "lr_scheduler" in tree.text or "param_groups" in tree.text:
        return
    for line, optimiser in _steps(tree):
        clock = progress(tree, line)
        pi = spelled(tree, "math.pi") or spelled(tree, "torch.pi")
        shapes = {"linear": f"(1 - {clock[0]} / {clock[1]})"} if clock else {}
        cosine = spelled(tree, "math.cos")
        if clock and cosine and pi:
            shapes["cosine"] = f"0.5 * (1 + {cosine}({pi} * {clock[0]} / {clock[1]}))"
        for name, shape in shapes.items():
            text = (
                f"for group in {optimiser}.param_groups:\n"
                f'    group["lr"] = group.setdefault("initial_lr", group["lr"]) * {shape}\n'
            )
            yield Edit("schedule", f"decay the learning rate of {optimiser} to nought, {name}", _before(line, text))


def clip_gradients(tree: Tree) -> Iterator[Edit]:
    """The norm of all gradients held at 1 before each step, where nothing clips yet."""
    clip = spelled(tree, f"{NN}.utils.clip_grad_norm_")
    for line, optimiser in _steps(tree) if clip and "clip_grad" not in tree.text else ():
        parameters = f'[p for group in {optimiser}.param_groups for p in group["params"]]'
        text = f"{clip}({parameters}, 1.0)\n"
        yield Edit("clip", f"clip the gradient norm at 1.0 before {optimiser}.step()", _before(line, text))


def tie_weights(tree: Tree) -> Iterator[Edit]:
    """An embedding and a head of the same shape in one constructor share their weights."""
    made: dict[str, dict[str, tuple[str, cst.Call]]] = defaultdict(dict)
    for call in calls(tree, f"{NN}.Embedding", f"{NN}.Linear"):
        holder = tree.parents[call]
        if isinstance(holder, cst.Assign) and dotted(holder.targets[0].target).startswith("self."):
            made[tree.home(call)][dotted(holder.targets[0].target)] = meaning(tree, call.func), call
    for layers in made.values():
        for table, (kind, embedding) in layers.items():
            for head, (other, linear) in layers.items():
                if kind.endswith("Embedding") and other.endswith("Linear") and _transposed(embedding, linear):
                    yield from _tied(tree, table, head, max(embedding, linear, key=tree.nodes.index))


def _transposed(one: cst.Call, other: cst.Call) -> bool:
    first, second = ([code(value) for value in positional(call)[:2]] for call in (one, other))
    return len(first) == 2 and first == second[::-1]


def _tied(tree: Tree, table: str, head: str, last: cst.Call) -> Iterator[Edit]:
    line = statement(tree, last)
    if f"{head}.weight = " not in tree.text:
        words = f"tie the weights of {head} to {table}"
        yield Edit("tie", words, {line: (line, *statements(f"{head}.weight = {table}.weight\n"))})


TRANSFORMS = (
    swap_activation,
    square_relu,
    swap_activation_module,
    swap_norm,
    add_norm,
    swap_init,
    swap_optimiser,
    add_momentum,
    add_weight_decay,
    schedule,
    clip_gradients,
    tie_weights,
)


def torch_edits(tree: Tree) -> Iterator[Edit]:
    """All of them, for a file that imports torch."""
    if any(name.partition(".")[0] == "torch" for name in imported(tree).values()):
        for transform in TRANSFORMS:
            yield from transform(tree)
