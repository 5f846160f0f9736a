"""What the scores of a classifier say of a burst: no particle, one, or two."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

NOTHING, DEBRIS, NO_SECOND = -1, -2, -1


@njit(cache=True, nogil=True)
def read_out(
    scores: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    none_from: float,
    two_from: float,
    shares: NDArray[np.float64],
    decided: NDArray[np.float64],
) -> int:
    """The number of particles (0, 1 or 2) that the scores speak for, and their classes.

    p = softmax of the first len(`first`) scores. There is nothing where p(nothing) >=
    `none_from`, else there are two particles where the p of all pairs together is >= `two_from`:
    those of the pair with the largest p. Otherwise there is one, of the class with the largest

        q(c) = p(c) + sum over pairs of p(pair) (the number of its particles of class c) / 2

    Its probability is q(c) / sum(q). That of a pair's particle is the p of all pairs with its class
    in its place, over the p of all pairs.

    scores : (n,) float64, logits of `first` and `second` in their order, then others; not changed
    first : (groups,) int64, class of the (first) particle, or NOTHING, or DEBRIS
    second : (groups,) int64, class of the pair's second particle, else NO_SECOND
    none_from, two_from : float, 0 to 1
    shares : (3,) float64, p of nothing, of debris and of all pairs, written
    decided : (2, 2) float64, class and probability of each particle, written
    """
    groups = first.shape[0]
    highest = scores[0]
    for group in range(groups):
        highest = max(highest, scores[group])
    total = 0.0
    for group in range(groups):
        total += np.exp(scores[group] - highest)
    shares[:] = 0.0
    classes = 0
    best_pair, pair_p = 0, -1.0
    for group in range(groups):
        p = np.exp(scores[group] - highest) / total
        classes = max(classes, first[group] + 1)
        if second[group] != NO_SECOND:
            shares[2] += p
            if p > pair_p:
                best_pair, pair_p = group, p
        elif first[group] == NOTHING:
            shares[0] += p
        elif first[group] == DEBRIS:
            shares[1] += p
    if shares[0] >= none_from:
        return 0
    if pair_p >= 0.0 and shares[2] >= two_from:
        decided[0, 0], decided[1, 0] = first[best_pair], second[best_pair]
        decided[0, 1] = decided[1, 1] = 0.0
        for group in range(groups):
            if second[group] != NO_SECOND:
                p = np.exp(scores[group] - highest) / total / shares[2]
                decided[0, 1] += p if first[group] == first[best_pair] else 0.0
                decided[1, 1] += p if second[group] == second[best_pair] else 0.0
        return 2
    every = 0.0
    decided[0, 1] = -1.0
    for name in range(classes):
        q = 0.0
        for group in range(groups):
            p = np.exp(scores[group] - highest) / total
            if second[group] == NO_SECOND:
                q += p if first[group] == name else 0.0
            else:
                q += 0.5 * p if first[group] == name else 0.0
                q += 0.5 * p if second[group] == name else 0.0
        every += q
        if q > decided[0, 1]:
            decided[0, 0], decided[0, 1] = name, q
    decided[0, 1] = decided[0, 1] / every if every > 0.0 else 0.0
    return 1
