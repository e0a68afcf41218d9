"""Programs of several kinds that the tuner is let loose on. The torch one is only read: torch is not needed."""

MLP = '''\
"""A small MLP with gradients by hand."""
import numpy as np

SEED = 3
HIDDEN = 32  # width
RATE = 0.1
STEPS = 300
BETAS = (0.9, 0.95)
KIND = "plain"

rng = np.random.default_rng(SEED)
X = rng.normal(size=(256, 8)).astype(np.float64)
Y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2] ** 2


def train(rate=RATE):
    W1 = rng.standard_normal((8, HIDDEN)) * 0.3
    b1 = np.zeros(HIDDEN)
    W2 = rng.normal(0, 0.1, (HIDDEN, 1))
    b2 = np.zeros(1)
    for step in range(STEPS):
        h = np.tanh(X @ W1 + b1)
        y = h @ W2 + b2
        d = 2 * (y - Y) / len(X)
        dW2 = h.T @ d
        dh = d @ W2.T
        dz = dh * (1 - h * h)  # derivative of tanh
        if KIND == "signed":
            dz = np.sign(dz)
        W2 -= rate * dW2
        b2 -= rate * d.sum(0)
        W1 -= rate * (X.T @ dz)
        b1 -= rate * dz.sum(0)
    h = np.tanh(X @ W1 + b1)
    return float(((h @ W2 + b2 - Y) ** 2).mean())


if __name__ == "__main__":
    print(f"loss: {train():.6f}")
'''

TORCH = '''\
"""A small language model."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F

# --- Hyperparameters (edit these) ---
ASPECT_RATIO = 64       # model_dim = depth * ASPECT_RATIO
TOTAL_BATCH_SIZE = 2**19 # tokens per step
EMBEDDING_LR = 0.6
ADAM_BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.0
WEIGHT_DECAY = 0.2
SEED = 42
USE_BIAS = False
WINDOW = "short"


class Block(nn.Module):
    def __init__(self, width, heads=4):
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.attn = nn.MultiheadAttention(width, heads, dropout=0.1)
        self.up = nn.Linear(width, 4 * width)
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attn(x)  # residual
        x = F.layer_norm(x, (x.size(-1),))
        return x + self.down(F.relu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, vocab, width):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(6)])
        self.head = nn.Linear(width, vocab, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        if WINDOW == "short":
            x = x[:, -64:]
        elif WINDOW == "long":
            x = x[:, -256:]
        return 15 * torch.tanh(self.head(x) / 15)


model = Model(256, 128)
second = Model(256, 128)
optimizer = torch.optim.SGD(model.parameters(), lr=EMBEDDING_LR)
for step in range(1000):
    ids = torch.randint(0, 256, (32, 128))
    loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
    optimizer.zero_grad()
    loss.backward()
    # the step itself
    optimizer.step()  # here
print(f"val_loss: {loss.item():.6f}")
'''

PLAIN = '''\
"""Counts things."""
import math

TABLE = {"fast": 1, "slow": 2}
MODE = "fast"
LIMIT = 500


def fib(n):
    if n in [0, 1]:
        return n
    return fib(n - 1) + fib(n - 2)


def spread(items, weight=0.5):
    total = 0.0
    for x in items:
        total += math.sqrt(x ** 2 + weight)
    out = []
    for x in items:
        if x > 2:
            out.append(x ** 2)
    return total + sum(out) * TABLE[MODE]


def unused(a):
    return a


def work():
    debug = False
    if debug:
        print("hi")
    result = spread(list(range(LIMIT)), weight=0.25)
    assert result > 0
    return result + fib(15)


print("score:", work())
'''
