"""scikit-learn's GridSearchCV over 300 fits of a millisecond or two, on two jobs of joblib.

Each fit is a call with the same arrays. The backend of each system is its own; loky is joblib's usual one. A first
search that does not count has the workers import scikit-learn.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from benchmarks.systems import WORKERS
from benchmarks.workload import Metric, Turn, Workload

KEY = "search"
CANDIDATES = 60
FOLDS = 5
ROWS, COLUMNS = 500, 40


def measure(turn: Turn) -> None:
    import joblib
    from sklearn.datasets import make_classification

    backend = turn.system.joblib_backend()
    features, labels = make_classification(ROWS, COLUMNS, random_state=0)

    def search() -> float:
        with joblib.parallel_config(backend, n_jobs=WORKERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            found = _search(turn.count(CANDIDATES, least=2)).fit(features, labels)
            took_s = time.perf_counter() - began
        assert 0.5 < found.best_score_ <= 1.0, "a search finds what is better than guessing"
        return took_s

    search()
    for _ in range(2 if turn.tiny else 8):
        turn.record(KEY, search() * 1e3)


def _search(candidates: int) -> Any:
    import numpy as np
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import GaussianNB

    return GridSearchCV(GaussianNB(), {"var_smoothing": list(np.logspace(-9, 0, candidates))}, cv=FOLDS)


WORKLOAD = Workload(
    (Metric(KEY, "GridSearchCV, 300 short fits through joblib, two jobs", "ms"),),
    measure,
    cap_s=60,
)
