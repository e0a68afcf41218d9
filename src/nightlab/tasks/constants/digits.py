"""A small network learns to read digits; prints the log loss on digits it was not shown."""

import os
import warnings

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

HIDDEN = 16
LEARNING_RATE = 0.02
BATCH = 64
PENALTY = 0.0001
MOMENTUM = 0.5
SHARPNESS = 0.05
BUDGET = 8  # times over the digits: what a run is given, and not to be turned

warnings.simplefilter("ignore", ConvergenceWarning)
pixels, labels = load_digits(return_X_y=True)
model = MLPClassifier(
    (HIDDEN,),
    solver="sgd",
    learning_rate_init=LEARNING_RATE,
    batch_size=BATCH,
    alpha=PENALTY,
    momentum=MOMENTUM,
    max_iter=BUDGET,
    random_state=int(os.environ["NIGHTLAB_SEED"]) % 2**32,
)
model.fit(pixels[:1000] * SHARPNESS, labels[:1000])
print("loss:", log_loss(labels[1000:], model.predict_proba(pixels[1000:] * SHARPNESS), labels=range(10)))
