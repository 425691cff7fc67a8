"""Values as bytes and back: what a snapshot of a run's state costs."""

from __future__ import annotations

import datetime as dt
import decimal
import gc
import pickle
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.conftest import Compared, Gate
from blazen._core.codec import decode, encode

KEYS = 1_000
MIXED: list[Callable[[int], object]] = [
    lambda n: n * 1_000,
    lambda n: n + 0.5,
    lambda n: f"text number {n}",
    lambda n: {"name": f"name {n}", "points": n, "tags": ["a", "b", "c"]},
    lambda n: [1, 2.5, "three", n],
    lambda n: (n, "x", None, True),
    lambda n: b"%d" % n * 20,
    lambda n: dt.datetime(2024, 1, 1, n % 24, tzinfo=dt.UTC),
    lambda n: {n, n + 1, n + 2},
    lambda n: {n: {"deep": [[n]]}},
    lambda n: decimal.Decimal(n) / 8,
    lambda n: uuid.UUID(int=n),
    lambda n: np.arange(n % 50),
]


def bytes_beside_pickle(value: Any) -> Compared:
    """Seconds to bytes and back, with the codec and with pickle."""
    compared = Compared([], [])
    assert decode(encode(value)).keys() == value.keys()
    for _ in range(40):
        gc.collect()
        start = time.perf_counter()
        back = decode(encode(value))
        compared.ours.append(time.perf_counter() - start)
        assert len(back) == len(value)
        gc.collect()
        start = time.perf_counter()
        back = pickle.loads(pickle.dumps(value, 5))
        compared.yardstick.append(time.perf_counter() - start)
        assert len(back) == len(value)
    return compared


def test_mixed_keys_to_bytes_and_back(gate: Gate, benchmark: Any) -> None:
    value = {f"key {n}": MIXED[n % len(MIXED)](n) for n in range(KEYS)}
    compared = benchmark.pedantic(bytes_beside_pickle, args=(value,), rounds=1, iterations=1)
    gate.check("1,000 mixed keys to bytes and back / pickle", compared, 1.5)


def test_a_large_array_to_bytes_and_back(gate: Gate, benchmark: Any) -> None:
    value = {"array": np.zeros(1_000_000)}
    compared = benchmark.pedantic(bytes_beside_pickle, args=(value,), rounds=1, iterations=1)
    gate.check("an 8 MB array to bytes and back / pickle", compared, 1.5)


def test_many_equal_records_to_bytes_and_back(gate: Gate, benchmark: Any) -> None:
    value = {"rows": [{"name": f"row {n}", "points": n, "ratio": n / 7, "flag": n % 2 == 0} for n in range(10_000)]}
    compared = benchmark.pedantic(bytes_beside_pickle, args=(value,), rounds=1, iterations=1)
    gate.check("10,000 records to bytes and back / pickle", compared, 1.5)
