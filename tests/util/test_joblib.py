"""joblib and scikit-learn on the cluster."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import atoll
from atoll.util import joblib as backend
from atoll.util.joblib import BATCH_BYTES, BATCH_GROWTH, BatchSizes, SharedArrays, register_atoll, register_ray

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("session")]

register_atoll()


def describe(array: Any, number: int) -> tuple[int, bool, float, int]:
    return number, array.flags.writeable, float(array.sum()), os.getpid()


def test_calls_run_on_workers_and_results_come_in_order() -> None:
    with joblib.parallel_config("atoll"):
        results = joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(number, 2) for number in range(300))
    assert results == [number**2 for number in range(300)]


def test_a_large_array_is_shared_and_put_once() -> None:
    array = np.ones((300, 300))
    with joblib.parallel_backend("atoll", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(describe)(array, number) for number in range(20))
    assert [number for number, *_rest in results] == list(range(20))
    assert all((writeable, total) == (False, 90_000.0) for _n, writeable, total, _pid in results)
    assert all(pid != os.getpid() for *_rest, pid in results)
    shared = SharedArrays()
    call = (describe, array, array[0, :200])
    first, second = shared.pickled(call), shared.pickled(call)
    assert first[1] == second[1]
    assert len(first[1]) == 1
    assert len(first[0]) < 20_000 < array.nbytes
    by_value, refs = shared.pickled((lambda: array.sum(), array))
    assert refs == first[1], "also beside what no module has"
    assert len(by_value) < 20_000


def test_what_modules_have_is_pickled_without_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_CodePickler", None)
    payload, refs = SharedArrays().pickled((describe, np.ones(1000), "__main__"))
    assert len(refs) == 1
    assert b"describe" in payload


def test_batches_grow_fast_and_shrink_at_once() -> None:
    sizes = BatchSizes()
    assert sizes.next() == 1
    sizes.ran(1, 0.001)
    assert sizes.next() == BATCH_GROWTH, "one call says little of the next thousand"
    sizes.ran(BATCH_GROWTH, BATCH_GROWTH * 0.001)
    assert sizes.next() == pytest.approx(1000, abs=1)
    sizes.ran(500, 2000.0)
    assert sizes.next() == 1
    for _ in range(12):
        sizes.ran(1, 0.01)
    assert 1 < sizes.next() <= 100, "what was long ago weighs little"
    sizes.ran(1, 0.0)
    assert sizes.next() >= 1


def test_calls_that_bring_much_along_are_not_made_in_hundreds() -> None:
    sizes = BatchSizes()
    sizes.sent(1, 10 * BATCH_BYTES)
    sizes.ran(1, 0.001)
    assert sizes.next() == 1
    sizes.sent(2, BATCH_BYTES // 4)
    assert sizes.next() == 8
    shared = SharedArrays()
    shared.pickled((describe, np.ones(1000)))
    array = np.ones(2000)
    shared.pickled((describe, array))
    shared.pickled((describe, array))
    assert shared.put_bytes == 24_000


def test_short_calls_share_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    ran = BatchSizes.ran

    def note(self: BatchSizes, calls: int, _seconds: float) -> None:
        batches.append(calls)
        ran(self, calls, calls * 1e-6)  # however busy the machine is

    monkeypatch.setattr(BatchSizes, "ran", note)
    with joblib.parallel_config("atoll", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(2000)) == list(range(2000))
    assert sum(batches) == 2000
    assert max(batches) >= BATCH_GROWTH
    assert len(batches) < 60


def test_what_a_call_raises_ends_the_whole(tmp_path: Path) -> None:
    def note(number: int) -> int:
        if number == 3:
            raise KeyError("three")
        (tmp_path / str(number)).touch()
        time.sleep(0.01)
        return number

    with joblib.parallel_config("atoll", n_jobs=2), pytest.raises(KeyError, match="three"):
        joblib.Parallel()(joblib.delayed(note)(number) for number in range(400))
    assert len(list(tmp_path.iterdir())) < 300
    with joblib.parallel_config("atoll", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


def test_a_generator_of_results_and_what_is_defined_here_by_value() -> None:
    factor = 3
    with joblib.parallel_config("atoll", n_jobs=2):
        results = joblib.Parallel(return_as="generator")(joblib.delayed(lambda n: n * factor)(n) for n in range(5))
        assert list(results) == [0, 3, 6, 9, 12]


def test_one_job_runs_here() -> None:
    with joblib.parallel_config("atoll", n_jobs=1):
        assert joblib.Parallel()([joblib.delayed(os.getpid)()]) == [os.getpid()]


def test_nested_calls_run_within_their_worker() -> None:
    def outer(number: int) -> tuple[int, list[int]]:
        return os.getpid(), joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(number))

    with joblib.parallel_config("atoll", n_jobs=2):
        results = joblib.Parallel()(joblib.delayed(outer)(2) for _ in range(2))
    assert all(inner == [pid, pid] for pid, inner in results)


def test_rays_name_is_known_too() -> None:
    register_ray()
    with joblib.parallel_config("ray", n_jobs=-1):
        assert joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)) == [0, 1, 2]


@pytest.mark.filterwarnings("default")
def test_a_search_of_scikit_learn_finds_what_it_finds_without_us() -> None:
    from sklearn.datasets import make_classification
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import GaussianNB

    features, labels = make_classification(600, 20, random_state=0)
    search = GridSearchCV(GaussianNB(), {"var_smoothing": list(np.logspace(-9, 1, 8))}, cv=3)
    with joblib.parallel_config("atoll", n_jobs=2):
        here = search.fit(features, labels).cv_results_["mean_test_score"]
    with joblib.parallel_config("sequential"):
        there = search.fit(features, labels).cv_results_["mean_test_score"]
    assert here.tolist() == there.tolist()


def threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_options_of_the_tasks() -> None:
    with joblib.parallel_backend("atoll", n_jobs=2, remote_args={"num_cpus": 2}):
        assert joblib.Parallel()(joblib.delayed(threads)() for _ in range(2)) == ["2", "2"]
    assert atoll.is_initialized()
