"""Walks a second time: in Python's whole numbers, a state after the other. Nothing is shared with the native core but the
words of its generator, SplitMix64.
"""

from bisect import bisect_right

from splitmix import MASK, words


def walk(key, table, prior, names, renamed, length, row):
    """Return (tokens, chain, names of the states) of a row; thresholds are lists of whole numbers up to 2^53, those of
    `renamed` one for each chain.
    """
    word = words(key, row)
    place = lambda thresholds: bisect_right(thresholds[:-1], next(word) >> 11)  # noqa: E731
    chain = place(prior)
    state, states = len(table[chain]) - 1, []
    for _ in range(length):
        state = place(table[chain][state])
        states.append(state)
    other = words(key ^ MASK, row)
    called = list(range(len(table[chain]) - 1))
    if next(other) >> 11 < renamed[chain]:
        left = list(range(names))
        for i in range(len(called)):
            at = i + (next(other) * (names - i) >> 64)
            left[i], left[at] = left[at], left[i]
            called[i] = left[i]
    return [called[state] for state in states], chain, called
