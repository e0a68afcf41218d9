"""Edits for numpy scripts with gradients by hand: activations, initialisation, optimisers, schedules, precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import libcst as cst

from nightlab.tuner.edit import Edit
from nightlab.tuner.names import (
    calls,
    enclosing,
    expression,
    factor,
    imported,
    known,
    meaning,
    place,
    positional,
    progress,
    spelled,
)
from nightlab.tuner.space import number, rounded, words
from nightlab.tuner.tree import Swaps, Tree, code, dotted, inside

# --- activations and their derivatives --------------------------------------------------------------------------------


def tanh_to_relu(tree: Tree) -> Iterator[Edit]:
    """Every tanh a relu and every `1 - h * h` of its results the matching mask."""
    sites = list(calls(tree, "numpy.tanh"))
    results = {code(target) for call in sites for target in _targets(tree, call)}
    slopes = {n: h for n in tree.nodes if (h := _squared_out_of_one(n)) and h in results}
    if not slopes:
        return
    np = spelled(tree, "numpy")
    masks: Swaps = {node: expression(f"({h} > 0)") for node, h in slopes.items()}
    forward: Swaps = {c: expression(f"{np}.maximum({code(positional(c)[0])}, 0)") for c in sites}
    yield Edit("activation", "use relu instead of tanh", {**masks, **forward})
    masks = {node: expression(f"{np}.where({h} > 0, 1.0, 0.1)") for node, h in slopes.items()}
    if all(isinstance(positional(c)[0], cst.Name) for c in sites):
        forward = {c: expression("{0}.maximum({1}, 0.1 * {1})".format(np, code(positional(c)[0]))) for c in sites}
        yield Edit("activation", "use leaky relu instead of tanh", {**masks, **forward})


def relu_to_tanh(tree: Tree) -> Iterator[Edit]:
    """Every relu a tanh and every mask of its argument or result the matching derivative."""
    rectified = {c: z for c in calls(tree, "numpy.maximum") if (z := _rectified(c)) is not None}
    result_of = {name: code(t) for c, z in rectified.items() for t in _targets(tree, c) for name in (code(z), code(t))}
    slopes = {n: result_of[name] for n in tree.nodes if (name := _above_nought(n)) in result_of}
    if slopes:
        np = spelled(tree, "numpy")
        masks: Swaps = {node: expression(f"(1 - {h} * {h})") for node, h in slopes.items()}
        forward: Swaps = {c: expression(f"{np}.tanh({code(z)})") for c, z in rectified.items()}
        yield Edit("activation", "use tanh instead of relu", {**masks, **forward})


def _targets(tree: Tree, call: cst.Call) -> Iterator[cst.BaseExpression]:
    holder = tree.parents[call]
    if isinstance(holder, cst.Assign):
        yield from (t.target for t in holder.targets)


def _squared_out_of_one(node: cst.CSTNode) -> str:
    """`h` for `1 - h * h` and `1 - h**2`."""
    if not isinstance(node, cst.BinaryOperation) or not isinstance(node.operator, cst.Subtract):
        return ""
    square = node.right
    if number(node.left) != 1:
        return ""
    if isinstance(square, cst.Call) and code(square.func).endswith(".square") and len(square.args) == 1:
        return code(square.args[0].value)
    if not isinstance(square, cst.BinaryOperation):
        return ""
    is_product = isinstance(square.operator, cst.Multiply) and code(square.left) == code(square.right)
    is_power = isinstance(square.operator, cst.Power) and number(square.right) == 2
    return code(square.left) if is_product or is_power else ""


def _rectified(call: cst.Call) -> cst.BaseExpression | None:
    given = positional(call)
    rest = [value for value in given if number(value) != 0]
    return rest[0] if len(given) == 2 and len(rest) == 1 else None


def _above_nought(node: cst.CSTNode) -> str:
    """`z` for `z > 0`."""
    if not isinstance(node, cst.Comparison) or len(node.comparisons) != 1:
        return ""
    is_above = isinstance(node.comparisons[0].operator, cst.GreaterThan)
    return code(node.left) if is_above and number(node.comparisons[0].comparator) == 0 else ""


# --- initialisation ---------------------------------------------------------------------------------------------------


NOT_WEIGHTS = words("x y z data input inputs target targets label labels noise sample samples batch")


def rescale_init(tree: Tree) -> Iterator[Edit]:
    """A matrix of normal draws: divided by the root of its fan-in, or made small."""
    np = spelled(tree, "numpy")
    for node in tree.nodes:
        rows = _fan_in(tree, node) if isinstance(node, cst.Call) and np else None
        if rows is None or not isinstance(node, cst.Call):
            continue
        whole, standard = _with_its_scale(tree, node), _standard(node)
        name = _given_to(tree, whole)
        if not name or words(name) & NOT_WEIGHTS:
            continue
        about = f"{name}{place(tree, node)}"
        for label, tail in (("by fan-in", f"/ {np}.sqrt({rows})"), ("at 0.1", "* 0.1")):
            if code(whole) != f"{standard} {tail}":
                yield Edit("init", f"scale the initial {about} {label}", {whole: expression(f"{standard} {tail}")})


def _fan_in(tree: Tree, call: cst.Call) -> str | None:
    """The text of `a` where a call draws an `(a, b)` of normal numbers."""
    name = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
    size = next((a.value for a in call.args if a.keyword is not None and a.keyword.value in ("size", "shape")), None)
    given = positional(call)
    if name == "randn" and len(given) == 2:
        return factor(given[0])
    if name == "standard_normal" and given:
        size = given[0]
    if name == "normal" and len(given) == 3:
        size = given[2]
    if name not in ("normal", "standard_normal") or not isinstance(size, cst.Tuple) or len(size.elements) != 2:
        return None
    return code(size.elements[0].value)


def _standard(call: cst.Call) -> str:
    """The same draw with mean nought and deviation one."""
    given = positional(call)
    if code(call.func).endswith(".normal") and len(given) == 3:
        return f"{code(call.func)}(0, 1, {code(given[2])})"
    size = next((a for a in call.args if a.keyword is not None and a.keyword.value == "size"), None)
    is_scaled = size is not None and len(call.args) > 1
    return f"{code(call.func)}(size={code(size.value)})" if size is not None and is_scaled else code(call)


def _with_its_scale(tree: Tree, call: cst.Call) -> cst.BaseExpression:
    """The product or quotient the draw already stands in, or itself."""
    holder = tree.parents[call]
    if not isinstance(holder, cst.BinaryOperation):
        return call
    is_quotient = isinstance(holder.operator, cst.Divide) and holder.left is call
    return holder if is_quotient or isinstance(holder.operator, cst.Multiply) else call


def _given_to(tree: Tree, node: cst.CSTNode) -> str:
    holder = tree.parents[node]
    return code(holder.targets[0].target) if isinstance(holder, cst.Assign) else ""


# --- the update -------------------------------------------------------------------------------------------------------

RATE_WORDS = frozenset(["lr", "rate", "eta", "alpha", "learning", "stepsize", "step"])


@dataclass(frozen=True, slots=True)
class Update:
    """`P -= RATE * G` or `P = P - RATE * G`: what is stepped, how far, along what."""

    step: cst.BaseExpression
    target: cst.BaseExpression
    rate: cst.BaseExpression
    gradient: str


def updates(tree: Tree) -> Iterator[Update]:
    """Every line that steps a parameter down its gradient."""
    for node in tree.nodes:
        if isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.SubtractAssign):
            target, step = node.target, node.value
        elif isinstance(node, cst.Assign) and isinstance(node.value, cst.BinaryOperation) and len(node.targets) == 1:
            target, step = node.targets[0].target, node.value.right
            if not isinstance(node.value.operator, cst.Subtract) or code(node.value.left) != code(target):
                continue
        else:
            continue
        parts = _rate_and_gradient(step)
        if parts is not None:
            yield Update(step, target, *parts)


def _rate_and_gradient(step: cst.BaseExpression) -> tuple[cst.BaseExpression, str] | None:
    if not isinstance(step, cst.BinaryOperation):
        return None
    if isinstance(step.operator, cst.Divide):
        parts = _rate_and_gradient(step.left)
        return parts and (parts[0], f"({parts[1]} / {factor(step.right)})")
    if not isinstance(step.operator, cst.Multiply):
        return None
    if _is_rate(step.left):
        return step.left, factor(step.right)
    return (step.right, factor(step.left)) if _is_rate(step.right) else None


def _is_rate(node: cst.BaseExpression) -> bool:
    return number(node) is not None or any(words(n.value) & RATE_WORDS for n in inside(node) if isinstance(n, cst.Name))


def _together(
    tree: Tree, kind: str, hypothesis: str, new: Callable[[Update], str | None], preamble: str = ""
) -> Iterator[Edit]:
    """One edit per function that holds updates: all of them at once."""
    homes: dict[str, list[Update]] = defaultdict(list)
    for update in updates(tree):
        homes[tree.home(update.step)].append(update)
    for found in homes.values():
        swaps: Swaps = {u.step: expression(text) for u in found if (text := new(u)) is not None}
        if swaps:
            yield Edit(kind, hypothesis + place(tree, found[0].step), swaps, preamble)


MOMENTUM = '''

def _momentum(key, gradient, decay=0.9, memory={}):
    """The running sum of a parameter's gradients."""
    past = memory.get(key)
    if past is None or past.shape != gradient.shape:
        past = 0.0 * gradient
    memory[key] = decay * past + gradient
    return memory[key]
'''
RMS = '''

def _rms(key, gradient, scale=SCALE, decay=0.99, memory={}):
    """A parameter's gradient over the running root of its mean square."""
    past = memory.get(key)
    if past is None or past.shape != gradient.shape:
        past = gradient * gradient
    memory[key] = decay * past + (1 - decay) * gradient * gradient
    return scale * gradient / (memory[key] ** 0.5 + 1e-8)
'''
ADAM = '''

def _adam(key, gradient, scale=SCALE, beta1=0.9, beta2=0.99, memory={}):
    """Adam's direction for a parameter: running mean over root mean square, both corrected for their start."""
    mean, square, step = memory.get(key, (0.0, 0.0, 0))
    if step and square.shape != gradient.shape:
        mean, square, step = 0.0, 0.0, 0
    mean, square, step = beta1 * mean + (1 - beta1) * gradient, beta2 * square + (1 - beta2) * gradient**2, step + 1
    memory[key] = mean, square, step
    return scale * (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)) ** 0.5 + 1e-8)
'''


def change_optimiser(tree: Tree) -> Iterator[Edit]:
    """The plain step becomes momentum, an RMS-normalised step, or Adam, by a helper that remembers per parameter."""
    if any(f"def {name}(" in tree.text for name in ("_momentum", "_rms", "_adam")):
        return
    for front, told in (("", "momentum 0.9"), ("0.1 * ", "momentum 0.9 at a tenth of the rate")):
        stepped = partial(_helped, tree, "_momentum", front)
        yield from _together(tree, "momentum", f"use {told}", stepped, MOMENTUM)
    for size in (0.01, 0.002):
        scale = repr(_scale(tree, size))
        for helper, name, text in (("_rms", "RMS-normalised steps", RMS), ("_adam", "Adam", ADAM)):
            hypothesis, preamble = f"use {name}, steps of about {size},", text.replace("SCALE", scale)
            yield from _together(tree, "optimiser", hypothesis, partial(_helped, tree, helper, ""), preamble)


def _helped(tree: Tree, helper: str, front: str, update: Update) -> str:
    return f"{front}{factor(update.rate)} * {helper}({_identity(tree, update)}, {update.gradient})"


def _scale(tree: Tree, size: float) -> float:
    """What brings the file's own rate to steps of this size; a tenth where the rate is not known."""
    first = next(updates(tree), None)
    value = (number(first.rate) or known(tree, dotted(first.rate))) if first else None
    return rounded(size / value) if value and value > 0 else 0.1


def _identity(tree: Tree, update: Update) -> str:
    """An expression that names one parameter through all steps."""
    target = update.target
    if isinstance(target, cst.Subscript):
        index = ", ".join(code(e.slice) for e in target.slice)
        if ":" not in index and "..." not in index:
            return f'("{code(target.value)}", {index})'
        target = target.value
    bound = {
        n.value
        for loop in enclosing(tree, update.step)
        if isinstance(loop, cst.For)
        for n in inside(loop.target)
        if isinstance(n, cst.Name)
    }
    return f"id({code(target)})" if code(target) in bound else f'"{code(target)}"'


def schedule(tree: Tree) -> Iterator[Edit]:
    """The rate multiplied by what is left of a counting loop: a line, a cosine, or a warm-up at its start."""
    np = spelled(tree, "numpy")
    shapes = {
        "decay the rate linearly to nought": "(1 - {0} / {1})",
        "decay the rate by a cosine to nought": f"0.5 * (1 + {np}.cos({np}.pi * {{0}} / {{1}}))",
        "warm the rate up over the first tenth": "min(1.0, ({0} + 1) / (0.1 * {1}))",
    }
    for hypothesis, shape in shapes.items():
        yield from _together(tree, "schedule", hypothesis, partial(_scheduled, tree, shape))


def _scheduled(tree: Tree, shape: str, update: Update) -> str | None:
    clock = progress(tree, update.step)
    if clock is None or any(isinstance(n, cst.Name) and n.value == clock[0] for n in inside(update.rate)):
        return None
    return f"{factor(update.rate)} * {shape.format(*clock)} * {update.gradient}"


def weight_decay(tree: Tree) -> Iterator[Edit]:
    """Each step also draws the parameter a little towards nought."""
    hypothesis = "add weight decay 0.01 to the update"
    yield from _together(
        tree, "weight decay", hypothesis, lambda u: f"{factor(u.rate)} * ({u.gradient} + 0.01 * {code(u.target)})"
    )


def clip_gradients(tree: Tree) -> Iterator[Edit]:
    """Every gradient entry held within -1 and 1 in the update."""
    np = spelled(tree, "numpy")
    if "clip(" not in tree.text:
        hypothesis = "clip the gradients at 1.0 in the update"
        yield from _together(
            tree, "clip", hypothesis, lambda u: f"{factor(u.rate)} * {np}.clip({u.gradient}, -1.0, 1.0)"
        )


# --- precision --------------------------------------------------------------------------------------------------------


def single_precision(tree: Tree) -> Iterator[Edit]:
    """float64 becomes float32 throughout the file, where it is asked for by name."""
    swaps: dict[cst.CSTNode, cst.CSTNode] = {}
    for node in tree.nodes:
        if meaning(tree, node) in ("numpy.float64", "torch.float64") and isinstance(node, cst.Attribute):
            swaps[node] = node.with_changes(attr=cst.Name("float32"))
        elif isinstance(node, cst.SimpleString) and node.raw_value == "float64":
            swaps[node] = node.with_changes(value=node.value.replace("float64", "float32"))
    if swaps:
        yield Edit("precision", "compute in float32 instead of float64", swaps)


TRANSFORMS = (
    tanh_to_relu,
    relu_to_tanh,
    rescale_init,
    change_optimiser,
    schedule,
    weight_decay,
    clip_gradients,
)


def numpy_edits(tree: Tree) -> Iterator[Edit]:
    """All of them, for a file that imports numpy."""
    if "numpy" in imported(tree).values():
        for transform in TRANSFORMS:
            yield from transform(tree)
