"""Boosted trees foretell how far a disease goes; prints the root mean squared error on patients they were not shown."""

import os

from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold

TREES = 40
LEARNING_RATE = 0.2
DEPTH = 4
LEAF = 2
SAMPLE_FRACTION = 0.5
FEATURE_FRACTION = 0.5

patients, course = load_diabetes(return_X_y=True)
found = []
for learned, held in KFold(3).split(patients):
    model = GradientBoostingRegressor(
        n_estimators=TREES,
        learning_rate=LEARNING_RATE,
        max_depth=DEPTH,
        min_samples_leaf=LEAF,
        subsample=SAMPLE_FRACTION,
        max_features=FEATURE_FRACTION,
        random_state=int(os.environ["NIGHTLAB_SEED"]) % 2**32,
    )
    model.fit(patients[learned], course[learned])
    found.append(root_mean_squared_error(course[held], model.predict(patients[held])))
print("loss:", sum(found) / len(found))
