"""A small language model over bytes: it looks at the last few bytes and predicts the next one.

An embedding per byte, one hidden layer, a softmax over the 256 bytes; gradients by hand, plain numpy.
"""

import os
from pathlib import Path

import numpy as np

CONTEXT = 4  # bytes the model looks back; the judge shows 32
EMBEDDING = 16  # numbers per byte
HIDDEN = 64  # width of the hidden layer
BATCH = 128  # examples per step
LEARNING_RATE = 0.05
INIT_SCALE = 0.5

SEED = int(os.environ.get("NIGHTLAB_SEED", "0"))
GIVEN = Path(os.environ.get("NIGHTLAB_GIVEN", "."))
OUT = Path(os.environ.get("NIGHTLAB_OUT", "."))
WIDTH = HIDDEN * (2 if os.environ.get("NIGHTLAB_RUNG") == "medium" else 1)  # more text deserves a wider model


def initial(rng):
    """Fresh weights."""
    E = rng.standard_normal((256, EMBEDDING)) * INIT_SCALE
    W1 = rng.standard_normal((CONTEXT * EMBEDDING, WIDTH)) * INIT_SCALE
    b1 = np.zeros(WIDTH)
    W2 = rng.standard_normal((WIDTH, 256)) * INIT_SCALE
    b2 = np.zeros(256)
    return [P.astype(np.float64) for P in (E, W1, b1, W2, b2)]


def forward(parameters, contexts):
    """The input, the hidden layer and the log-probabilities [n, 256] of the next byte."""
    E, W1, b1, W2, b2 = parameters
    x = E[contexts].reshape(len(contexts), -1)
    z = x @ W1 + b1
    h = np.tanh(z)
    logits = h @ W2 + b2
    logits -= logits.max(axis=1, keepdims=True)
    return x, h, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def backward(parameters, contexts, targets):
    """The gradients of the mean loss, in the order of the parameters."""
    E, W1, b1, W2, b2 = parameters
    x, h, log_probabilities = forward(parameters, contexts)
    dlogits = np.exp(log_probabilities)
    dlogits[np.arange(len(targets)), targets] -= 1
    dlogits /= len(targets)
    dW2 = h.T @ dlogits
    db2 = dlogits.sum(axis=0)
    dh = dlogits @ W2.T
    dz = dh * (1 - h * h)
    dW1 = x.T @ dz
    db1 = dz.sum(axis=0)
    dx = dz @ W1.T
    dE = np.zeros_like(E)
    np.add.at(dE, contexts, dx.reshape(len(contexts), CONTEXT, EMBEDDING))
    return dE, dW1, db1, dW2, db2


def train(text, rng):
    """Go over the text once, in random order."""
    windows = np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)
    order = rng.permutation(len(windows))
    parameters = initial(rng)
    steps = len(windows) // BATCH
    for step in range(steps):
        batch = windows[order[step * BATCH : (step + 1) * BATCH]]
        gradients = backward(parameters, batch[:, :CONTEXT], batch[:, CONTEXT])
        for P, G in zip(parameters, gradients):
            P -= LEARNING_RATE * G
    return parameters


def load():
    """The trained weights."""
    with np.load(OUT / "model.npz") as saved:
        return [saved[name] for name in saved.files]


def predict(parameters, contexts):
    """Log-probabilities [n, 256] of the byte after each of the contexts [n, 32]."""
    return forward(parameters, contexts[:, -CONTEXT:])[-1]


if __name__ == "__main__":
    given = np.fromfile(GIVEN / "text.bin", dtype=np.uint8)
    np.savez(OUT / "model.npz", *train(given, np.random.default_rng(SEED)))
