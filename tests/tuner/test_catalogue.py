"""Every transform fires where it should and nowhere else, and what it makes still runs."""

from __future__ import annotations

import contextlib
import io

import pytest
from sources import MLP, PLAIN, TORCH

from nightlab.proposer import Context
from nightlab.tuner.catalogue import catalogue, catalogue_offers
from nightlab.tuner.edit import Offer

TORCH_HEAD = "import math\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
NUMPY_HEAD = "import numpy as np\n"


def context(text: str, **more: object) -> Context:
    return Context({"a.py": text}, "loss", "lower", 0, 1, **more)  # type: ignore[arg-type]  # any field by name


def offers(text: str) -> dict[str, Offer]:
    return {offer.hypothesis: offer for offer in catalogue_offers(context(text))}


def made(text: str, hypothesis: str) -> str:
    files = offers(text)[hypothesis].make()
    assert files is not None
    return str(files["a.py"])


CASES = {
    "swap_activation": (
        TORCH_HEAD + "def forward(x):\n    return F.relu(x)  # why\n",
        "use gelu instead of relu in forward()",
        "return F.gelu(x)  # why",
    ),
    "swap_activation_of_torch_itself": (
        "import torch\ny = torch.tanh(x)\n",
        "use silu instead of tanh",
        "torch.nn.functional.silu(x)",
    ),
    "square_relu": (TORCH_HEAD + "y = F.relu(x)\n", "square the relu", "y = F.relu(x).square()"),
    "swap_activation_module": (
        TORCH_HEAD + "a = nn.Sequential(nn.ReLU(inplace=True), nn.ReLU())\n",
        "use GELU instead of ReLU",
        "nn.Sequential(nn.GELU(), nn.GELU())",
    ),
    "swap_norm_module": (
        TORCH_HEAD + "a = nn.LayerNorm(8, eps=1e-6, bias=False)\n",
        "use RMSNorm instead of LayerNorm",
        "a = nn.RMSNorm(8, eps=1e-6)",
    ),
    "swap_norm_function": (
        TORCH_HEAD + "y = F.rms_norm(x, (8,))\n",
        "use layer_norm instead of rms_norm",
        "y = F.layer_norm(x, (8,))",
    ),
    "add_norm": (
        TORCH_HEAD + "x = x + f(x)\n",
        "normalise the input of f",
        "x = x + f(F.layer_norm(x, x.shape[-1:]))",
    ),
    "swap_init": (
        TORCH_HEAD + "nn.init.normal_(m.weight, std=0.02)\n",
        "initialise m.weight with orthogonal",
        "nn.init.orthogonal_(m.weight)",
    ),
    "swap_optimiser": (
        TORCH_HEAD + "o = torch.optim.SGD(p, lr=0.3, momentum=0.9, weight_decay=W)\n",
        "use AdamW instead of SGD",
        "o = torch.optim.AdamW(p, lr=0.01, weight_decay=W)",
    ),
    "swap_optimiser_back": (
        TORCH_HEAD + "o = torch.optim.Adam(p, lr=LR)\n",
        "use SGD instead of Adam",
        "o = torch.optim.SGD(p, lr=LR * 30, momentum=0.9)",
    ),
    "add_momentum": (
        TORCH_HEAD + "o = torch.optim.SGD(p, lr=LR)\n",
        "give SGD a momentum of 0.9",
        "torch.optim.SGD(p, lr=LR, momentum=0.9, nesterov=True)",
    ),
    "add_weight_decay": (
        TORCH_HEAD + "o = torch.optim.Adam(p)\n",
        "add weight decay 0.01 to torch.optim.Adam",
        "torch.optim.Adam(p, weight_decay=0.01)",
    ),
    "torch_schedule": (
        TORCH,
        "decay the learning rate of optimizer to nought, cosine",
        "math.cos(math.pi * step / 1000)",
    ),
    "torch_clip": (TORCH, "clip the gradient norm at 1.0 before optimizer.step()", "nn.utils.clip_grad_norm_("),
    "tie_weights": (TORCH, "tie the weights of self.head to self.embed", "self.head.weight = self.embed.weight\n"),
    "tanh_to_relu": (MLP, "use relu instead of tanh", "dz = dh * (h > 0)  # derivative of tanh"),
    "tanh_to_leaky_relu": (
        NUMPY_HEAD + "h = np.tanh(z)\nd = g * (1 - h**2)\n",
        "use leaky relu instead of tanh",
        "h = np.maximum(z, 0.1 * z)\nd = g * np.where(h > 0, 1.0, 0.1)",
    ),
    "relu_to_tanh": (
        NUMPY_HEAD + "h = np.maximum(0, z)\nd = g * (z > 0)\n",
        "use tanh instead of relu",
        "h = np.tanh(z)\nd = g * (1 - h * h)",
    ),
    "rescale_init": (
        MLP,
        "scale the initial W1 in train() by fan-in",
        "W1 = rng.standard_normal((8, HIDDEN)) / np.sqrt(8)\n",
    ),
    "rescale_init_with_a_deviation": (
        MLP,
        "scale the initial W2 in train() by fan-in",
        "W2 = rng.normal(0, 1, (HIDDEN, 1)) / np.sqrt(HIDDEN)\n",
    ),
    "momentum": (MLP, "use momentum 0.9 in train()", 'W2 -= rate * _momentum("W2", dW2)'),
    "rms": (MLP, "use RMS-normalised steps, steps of about 0.01, in train()", 'W2 -= rate * _rms("W2", dW2)'),
    "adam": (MLP, "use Adam, steps of about 0.002, in train()", 'W1 -= rate * _adam("W1", (X.T @ dz))'),
    "numpy_schedule": (MLP, "decay the rate linearly to nought in train()", "W2 -= rate * (1 - step / STEPS) * dW2"),
    "numpy_schedule_in_a_while": (
        NUMPY_HEAD + "while step < N:\n    w = w - lr * g\n    step += 1\n",
        "decay the rate linearly to nought",
        "w = w - lr * (1 - step / N) * g",
    ),
    "weight_decay": (MLP, "add weight decay 0.01 to the update in train()", "W2 -= rate * (dW2 + 0.01 * W2)"),
    "numpy_clip": (MLP, "clip the gradients at 1.0 in the update in train()", "rate * np.clip(dW2, -1.0, 1.0)"),
    "single_precision": (MLP, "compute in float32 instead of float64", ".astype(np.float32)"),
    "memoise": (PLAIN, "remember the answers of fib()", "import functools\n"),
    "hoist_lookup": (PLAIN, "look math.sqrt up once in spread()", "def spread(items, weight=0.5, sqrt=math.sqrt):"),
    "multiply_square": (PLAIN, "multiply instead of ** 2 in spread()", "sqrt((x * x) + weight)"),
    "comprehend": (PLAIN, "build out in a comprehension in spread()", "out = [x ** 2 for x in items if x > 2]\n"),
    "literal_set": (PLAIN, "look up in a set instead of [0, 1] in fib()", "if n in {0, 1}:"),
    "choose_string_by_table": (PLAIN, 'set MODE to "slow" instead of "fast"', 'MODE = "slow"'),
    "choose_string_by_comparison": (TORCH, 'set WINDOW to "long" instead of "short"', 'WINDOW = "long"'),
    "choose_string_by_match": (
        'def f(kind="a"):\n    match kind:\n        case "a":\n            g()\n        case "b":\n            h()\n',
        'set kind to "b" instead of "a" in f()',
        'def f(kind="b"):',
    ),
    "resize": (TORCH, "halve the shared size 128 to 64", "model = Model(256, 64)"),
    "deepen": (TORCH, "build 7 of Block instead of 6 in Model.__init__()", "for _ in range(7)"),
}


@pytest.mark.parametrize(("text", "hypothesis", "expected"), CASES.values(), ids=CASES.keys())
def test_a_transform_fires(text: str, hypothesis: str, expected: str) -> None:
    new = made(text, hypothesis)

    compile(new, "a.py", "exec")
    assert expected in new


ABSENT = {
    "activation_of_another_library": ("import mine as F\ny = F.relu(x)\n", "activation"),
    "tanh_without_its_derivative": (NUMPY_HEAD + "h = np.tanh(z)\n", "activation"),
    "relu_without_its_mask": (NUMPY_HEAD + "h = np.maximum(z, 0)\n", "activation"),
    "norm_without_torch": ("x = nn.LayerNorm(8)\n", "norm"),
    "a_sum_that_is_no_residual": (TORCH_HEAD + "x = y + f(x)\n", "norm"),
    "initialised_bias": (TORCH_HEAD + "nn.init.normal_(m.bias)\n", "init"),
    "random_inputs": (NUMPY_HEAD + "X = rng.normal(size=(9, 3))\n", "init"),
    "a_vector_of_draws": (NUMPY_HEAD + "w = rng.normal(size=9)\n", "init"),
    "momentum_given": (TORCH_HEAD + "o = torch.optim.SGD(p, lr=1.0, momentum=0.5)\n", "momentum"),
    "weight_decay_given": (TORCH_HEAD + "o = torch.optim.Adam(p, weight_decay=0.1)\n", "weight decay"),
    "a_subtraction_without_a_rate": (NUMPY_HEAD + "for i in range(9):\n    a -= b * c\n", "optimiser"),
    "an_update_outside_a_counting_loop": (NUMPY_HEAD + "for x in xs:\n    w -= lr * g\n", "schedule"),
    "a_rate_that_is_scheduled": (NUMPY_HEAD + "for i in range(9):\n    w -= lr * (1 - i / 9) * g\n", "schedule"),
    "a_scheduler_at_work": (TORCH + "lr_scheduler = 1\n", "schedule"),
    "clipped_already": (TORCH + "clip_grad_norm_(p)\n", "clip"),
    "numpy_clipped_already": (NUMPY_HEAD + "g = np.clip(g, -1, 1)\nw -= lr * g\n", "clip"),
    "decay_without_an_update": (NUMPY_HEAD + "w = 1\n", "weight decay"),
    "shapes_that_differ": (TORCH.replace("nn.Linear(width, vocab", "nn.Linear(width, 2 * vocab"), "tie"),
    "single_precision_already": (NUMPY_HEAD + "x = x.astype(np.float32)\n", "precision"),
    "a_function_that_prints": ("def f(n):\n    print(n)\n    return f(n - 1)\n", "memoise"),
    "a_function_of_a_row": ("def f(row):\n    return f(row[1:]) + row[0]\n", "memoise"),
    "a_function_that_returns_a_list": ("def f(n):\n    return [f(n - 1)]\n", "memoise"),
    "a_lookup_outside_a_loop": ("import math\ndef f(x):\n    return math.sqrt(x)\n", "hoist"),
    "a_name_that_is_taken": (
        "import math\ndef f(xs, sqrt):\n    for x in xs:\n        y = math.sqrt(x)\n    return y\n",
        "hoist",
    ),
    "a_cube": ("y = x**3\n", "square"),
    "a_loop_that_does_more": ("a = []\nfor x in y:\n    a.append(x)\n    print(x)\n", "comprehension"),
    "a_loop_that_reads_its_list": ("a = []\nfor x in y:\n    a.append(len(a))\n", "comprehension"),
    "a_loop_that_asks_its_list": ("a = []\nfor x in y:\n    if x not in a:\n        a.append(x)\n", "comprehension"),
    "a_list_of_names": ("y = x in [a, b]\n", "set"),
    "a_string_without_alternatives": ('NAME = "a"\n', "choice"),
    "a_size_used_once": ("a = f(64)\n", "size"),
    "a_comprehension_of_values": ("a = [i for i in range(6)]\n", "depth"),
}


@pytest.mark.parametrize(("text", "kind"), ABSENT.values(), ids=ABSENT.keys())
def test_a_transform_keeps_still_where_its_precondition_is_absent(text: str, kind: str) -> None:
    assert kind not in {offer.kind for offer in offers(text).values()}


def loss_of(text: str) -> float:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(text, "a.py", "exec"), {"__name__": "__main__"})
    return float(said.getvalue().rpartition(":")[2])


NUMPY_EDITS = [h for h, offer in offers(MLP).items() if offer.kind != "choice"]


@pytest.mark.parametrize("hypothesis", NUMPY_EDITS)
def test_a_network_of_numpy_still_learns_after_an_edit(hypothesis: str) -> None:
    untrained = loss_of(MLP.replace("STEPS = 300", "STEPS = 0"))

    assert loss_of(made(MLP, hypothesis)) < 0.7 * untrained


def test_the_derivative_of_a_swapped_activation_is_the_true_one() -> None:
    text = NUMPY_HEAD + "def f(z):\n    h = np.tanh(z)\n    return h, 1 - h * h\n"

    for hypothesis in ("use relu instead of tanh", "use leaky relu instead of tanh"):
        names: dict[str, object] = {}
        exec(made(text, hypothesis), names)
        for z in (-1.3, 0.4, 2.0):
            (value, slope), (further, _) = (names["f"](z + move) for move in (0, 1e-6))  # type: ignore[operator]
            assert (further - value) / 1e-6 == pytest.approx(float(slope), abs=1e-4)


def test_a_plain_program_says_the_same_after_a_speed_edit() -> None:
    plain = {h for h, offer in offers(PLAIN).items() if offer.kind != "choice"}

    assert len(plain) == 5
    assert {loss_of(made(PLAIN, hypothesis)) for hypothesis in plain} == {loss_of(PLAIN)}


def test_everything_else_in_the_file_stays_as_it_was() -> None:
    for text in (MLP, TORCH, PLAIN):
        for hypothesis in offers(text):
            gone = set(text.splitlines()) - set(made(text, hypothesis).splitlines())
            assert len(gone) <= 6


def test_a_helper_stands_below_the_imports_and_is_not_written_twice() -> None:
    new = made(MLP, "use momentum 0.9 in train()")

    assert "import numpy as np\n\n\ndef _momentum(key, gradient, decay=0.9, memory={}):\n" in new
    assert not {offer.kind for offer in offers(new).values()} & {"momentum", "optimiser"}


def test_an_import_that_stands_there_is_not_added_again() -> None:
    text = PLAIN.replace("import math\n", "import functools\nimport math\n")

    assert made(text, "remember the answers of fib()").count("import functools") == 1


IDEA = """\
diff --git a/a.py b/a.py
--- a/a.py
+++ b/a.py
@@ -1 +1 @@
-A = 1
+A = 2
"""


def test_the_task_s_own_ideas_are_offered_and_applied() -> None:
    proposal = catalogue().propose(context("A = 1\n", ideas={"a larger A": IDEA}))

    assert proposal is not None
    assert proposal.hypothesis == "a larger A"
    assert proposal.files == {"a.py": "A = 2\n"}


def test_an_idea_that_does_not_apply_is_passed_over() -> None:
    assert catalogue().propose(context("B = 1\n", ideas={"a larger A": IDEA})) is None
