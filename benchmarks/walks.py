"""Walks through Markov chains: millions of tokens a second on one thread, chain and first state drawn for every row.

    python benchmarks/walks.py [--tokens 4000000] [--repeats 7] [--threads 1]

Verified against the statement of a walk in the tests, whole number by whole number. The limit is moving as many bytes as
the rows have.
"""

import sys
from pathlib import Path

import numpy as np
from harness import Contestant, Unit, arguments, copying, run

from worldfast._native import core
from worldfast.worlds import chains

sys.path.insert(0, str(Path(__file__).parent.parent / "python_tests"))
import walks_by_hand

CASES = {  # name: chains, states, length
    "4 chains of 5 states, rows of 100": (4, 5, 100),
    "1024 chains of 10 states, rows of 128": (1024, 10, 128),
    "2048 chains of 10 states, rows of 2048": (2048, 10, 2048),
    "16 chains of 36 states, rows of 128": (16, 36, 128),
}


def wrong_tokens(data, given, tokens, among=200):
    """Count the tokens of the first rows that differ from those of the second statement."""
    key, table, prior, names, renamed = given
    arguments = key, table.tolist(), prior.tolist(), names, renamed.tolist(), data.length
    rows = min(among, len(tokens))
    return float(sum((tokens[i] != walks_by_hand.walk(*arguments, i)[0]).sum() for i in range(rows)))


def by_numpy(data, given, n):
    """The plain way: all rows take a step, the place of a number among thresholds is where a sum of comparisons is."""
    _, table, prior, *_ = given
    random = np.random.default_rng(0)
    number = lambda: random.integers(0, 2**53, n)  # noqa: E731
    chain = (number()[:, None] >= prior[:-1]).sum(1)
    state, tokens = np.full(n, data.states), np.empty((n, data.length), np.int32)
    for t in range(data.length):
        state = (number()[:, None] >= table[chain, state, :-1]).sum(1)
        tokens[:, t] = state
    return tokens


def main():
    parser = arguments(__doc__, repeats=7, threads=[1])
    parser.add_argument("--tokens", type=int, default=4_000_000)
    options = parser.parse_args()
    for name, (count, states, length) in CASES.items():
        n = (20_000 if options.quick else options.tokens) // length
        data = chains.Dataset(count, states, length, rows=n)
        given = data.stream(0)._given
        out = [np.zeros(shape, np.int32) for shape in ((n, length), n, (n, states))]
        unit = Unit("million tokens/s", lambda seconds, n=n, length=length: n * length / seconds / 1e6)
        found = [
            Contestant(
                f"worldfast, {threads} threads",
                lambda threads=threads, given=given, n=n, out=out: core.walks(*given, 0, n, *out, threads) or out[0],
                lambda tokens, data=data, given=given: wrong_tokens(data, given, tokens),
                limits=(copying(out[0].nbytes, threads=threads),),
            )
            for threads in options.threads
        ]
        found.append(
            Contestant("NumPy, all rows at once", lambda data=data, given=given, n=n: by_numpy(data, given, n))
        )
        run("walks", name, found, options, unit)


if __name__ == "__main__":
    main()
