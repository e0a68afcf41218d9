"""A small GPT over bytes, in plain torch: it reads the bytes so far and predicts the next one.

    train.py [SIZE] [clock] [compile]   SIZE times the depth, width, context and batch; with "clock" for NIGHTLAB_BUDGET
                                        seconds, else once over the text that was given. On a GPU where there is one.

The same seed and torch give the same weights on the same processor; on a GPU the order of its sums varies.
"""

import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Of a model of size 1; a larger one has SIZE times as much of the first four, and its rate is divided by SIZE.
CONTEXT = 64  # bytes the model looks back; the judge shows more
LAYERS = 2
WIDTH = 64
BATCH = 16  # windows of CONTEXT bytes per step
LEARNING_RATE = 1e-3
HEAD = 16  # width of one head of attention
EXPANSION = 4  # of the feed-forward layer
INIT_STD = 0.1

SEED = int(os.environ.get("NIGHTLAB_SEED", "0"))
GIVEN = Path(os.environ.get("NIGHTLAB_GIVEN", "."))
OUT = Path(os.environ.get("NIGHTLAB_OUT", "."))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_num_threads(1)  # at this size two threads use half as many CPU seconds again, and end no sooner


class Attention(nn.Module):
    """Each place looks at itself and the places before it."""

    def __init__(self, width):
        super().__init__()
        self.heads = width // HEAD
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, time, width = x.shape
        q, k, v = self.qkv(x).view(n, time, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(n, time, width))


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to the stream."""

    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.up = nn.Linear(width, EXPANSION * width)
        self.down = nn.Linear(EXPANSION * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(F.relu(self.up(x))))


class GPT(nn.Module):
    """Bytes in, the scores of the 256 next bytes out, at every place."""

    def __init__(self, size):
        super().__init__()
        self.context, width = CONTEXT * size, WIDTH * size
        self.bytes = nn.Embedding(256, width)
        self.places = nn.Embedding(self.context, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS * size))
        self.head = nn.Linear(width, 256)
        for weight in (self.bytes.weight, self.places.weight, self.head.weight):
            nn.init.normal_(weight, std=INIT_STD)

    def forward(self, x):
        x = self.bytes(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def windows(text, context, batch):
    """The text in windows of inputs and the bytes that follow, in random order, over and over."""
    starts = torch.arange(0, len(text) - context, context)
    while True:
        order = starts[torch.randperm(len(starts))]
        for at in range(0, len(order) - batch + 1, batch):
            cut = text[order[at : at + batch, None] + torch.arange(context + 1)].to(DEVICE, torch.long)
            yield cut[:, :-1], cut[:, 1:]


def train(text, size, seconds):
    """Train once over the text, or for so many seconds."""
    model = GPT(size).to(DEVICE)
    forward = torch.compile(model) if "compile" in sys.argv else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE / size)
    steps = len(text) // (model.context * BATCH * size)
    began, step, done = time.monotonic(), 0, 0.0
    batches = windows(text, model.context, BATCH * size)
    while done < 1.0:
        inputs, targets = next(batches)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
            logits = forward(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        done = (time.monotonic() - began) / seconds if seconds else step / steps
        if step % 100 == 0:
            print(f"step {step}, {done:.0%} done, {loss.item() / math.log(2):.4f} bits per byte", flush=True)
    print(f"steps: {step}", f"parameters: {sum(p.numel() for p in model.parameters())}", sep="\n")
    return model


def load():
    """The trained model."""
    saved = torch.load(OUT / "model.pt", map_location=DEVICE, weights_only=True)
    model = GPT(saved["size"]).to(DEVICE)
    model.load_state_dict(saved["weights"])
    return model.eval()


@torch.inference_mode()
def predict(model, contexts):
    """Log-probabilities [n, 256] of the byte after each of the contexts [n, bytes], in full precision."""
    x = torch.from_numpy(contexts[:, -model.context :].astype(np.int64)).to(DEVICE)
    logits = torch.cat([model(part)[:, -1] for part in x.split(256)])
    return F.log_softmax(logits.float(), dim=-1).cpu().numpy()


if __name__ == "__main__":
    torch.manual_seed(SEED)
    size = int(sys.argv[1]) if sys.argv[1:] else 1
    seconds = float(os.environ["NIGHTLAB_BUDGET"]) if "clock" in sys.argv else None
    given = torch.from_numpy(np.fromfile(GIVEN / "text.bin", dtype=np.uint8))
    model = train(given, size, seconds)
    torch.save({"size": size, "weights": model.state_dict()}, OUT / "model.pt")
    if DEVICE == "cuda":
        print(f"peak_vram_mb: {torch.cuda.max_memory_allocated() / 2**20:.0f}")
