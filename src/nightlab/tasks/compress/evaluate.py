"""Feed the text to the model bit by bit and print what it cost. Frozen.

The model names the probability that the next bit is 1 before it is told the bit, so what it has to pay in all,
-log2 of the probability of what came, is what an arithmetic coder would need to store the text.
"""

import math
import os
from pathlib import Path

from model import Model

amount = int(float(os.environ.get("NIGHTLAB_BUDGET", 5000)))
text = Path("text.txt").read_bytes()
if len(text) < amount:
    raise SystemExit(f"text.txt holds {len(text):,} bytes, the budget asks for {amount:,}")

model = Model()
likelihood, cost = 1.0, 0.0
for byte in text[:amount]:
    for place in range(7, -1, -1):
        one = model.predict()
        if not 0.0 < one < 1.0:  # also refuses nan
            raise SystemExit(f"a probability must lie between 0 and 1, the model said {one!r}")
        bit = byte >> place & 1
        model.update(bit)
        likelihood *= one if bit else 1.0 - one
    cost -= math.log2(likelihood)
    likelihood = 1.0

print(f"bits_per_byte: {cost / amount:.6f}")
