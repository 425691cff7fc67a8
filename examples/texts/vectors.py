"""Texts as vectors: hashed TF-IDF.

A term is one of 2,048 dimensions, found by a checksum, so no vocabulary has to be shared between documents that are
embedded side by side. Two terms may meet in one dimension. Such vectors are close when texts use the same words; they
know nothing of meaning.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 2048
KEY_TERMS = 4
BLOCK = 512  # documents compared with all others at once: what bounds the memory it takes

Vectors = NDArray[np.float32]


def embed(counts: Sequence[Counter[str]]) -> Vectors:
    """How often the terms of each dimension occur: one row for each passage."""
    rows = np.zeros((len(counts), DIMENSIONS), dtype=np.float32)
    for row, terms in zip(rows, counts, strict=True):
        for term, count in terms.items():
            row[zlib.crc32(term.encode()) % DIMENSIONS] += count
    return rows


def stack(documents: Sequence[Vectors]) -> Vectors:
    """One row for each document."""
    return np.stack(documents)


def inverse_frequency(documents: Vectors) -> Vectors:
    """The weight of each dimension: the fewer documents use it, the more it says."""
    used_by = np.count_nonzero(documents, axis=0)
    weights: Vectors = (np.log((1 + len(documents)) / (1 + used_by)) + 1).astype(np.float32)
    return weights


def weigh(rows: Vectors, weights: Vectors) -> Vectors:
    """Rows of counts as TF-IDF vectors of length 1; a row without terms stays zero."""
    frequency = np.where(rows > 0, 1 + np.log(np.maximum(rows, 1)), 0)
    weighted = frequency * weights
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    units: Vectors = (weighted / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return units


def nearest(units: Vectors) -> list[tuple[int, float] | None]:
    """For each document the one that is most like it, and how much (cosine, 0 to 1); None where there is no other."""
    if len(units) < 2:
        return [None] * len(units)
    found: list[tuple[int, float] | None] = []
    for start in range(0, len(units), BLOCK):
        similar = units[start : start + BLOCK] @ units.T
        own = np.arange(len(similar))
        similar[own, start + own] = -1
        best = similar.argmax(axis=1)
        found.extend((int(other), min(1.0, float(similar[row, other]))) for row, other in zip(own, best, strict=True))
    return found


def closest_pair(left: Vectors, right: Vectors) -> tuple[int, int, float]:
    """The row of `left` and the row of `right` that are most alike, and how much."""
    similar = left @ right.T
    row, column = divmod(int(similar.argmax()), similar.shape[1])
    return row, column, min(1.0, float(similar[row, column]))


def key_terms(terms: Counter[str], used_by: Counter[str], documents: int) -> list[str]:
    """The terms that tell a document from the others: frequent in it and rare elsewhere; most telling first."""
    if documents == 1:
        scores = {term: float(count) for term, count in terms.items()}
    else:
        scores = {term: (1 + math.log(count)) * math.log(documents / used_by[term]) for term, count in terms.items()}
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [term for term, score in ranked[:KEY_TERMS] if score > 0]
