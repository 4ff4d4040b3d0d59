"""SplitMix64 a second time, in Python's whole numbers: the words of csrc/base/random.h."""

MASK = 2**64 - 1


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def words(key, row):
    state = key ^ mix(row)
    while True:
        state = state + 0x9E3779B97F4A7C15 & MASK
        yield mix(state)
