"""Ask the trained model for the bytes after the contexts. Frozen: the door between train.py and the judge."""

import os
from pathlib import Path

import numpy as np
import train

AT_ONCE = 1024  # contexts per call; few enough to stay in the processor's cache

contexts = np.load(Path(os.environ["NIGHTLAB_INPUTS"], "contexts.npy"))
model = train.load()
answers = [train.predict(model, contexts[at : at + AT_ONCE]) for at in range(0, len(contexts), AT_ONCE)]
np.save(Path(os.environ["NIGHTLAB_PREDICTIONS"], "log_probabilities.npy"), np.concatenate(answers).astype(np.float32))
