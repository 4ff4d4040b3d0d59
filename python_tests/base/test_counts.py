"""Sentences that count things or say how long they take: one is singular, and thousands are told apart."""

import pytest

from worldfast.display import count, duration


@pytest.mark.parametrize(
    "said,expected",
    [
        (count(0, "pair"), "0 pairs"),
        (count(1, "pair"), "1 pair"),
        (count(1_200, "model"), "1,200 models"),
        (count(1, "city", "cities"), "1 city"),
        (count(5075, "city", "cities"), "5,075 cities"),
    ],
)
def test_counts(said, expected):
    assert said == expected


@pytest.mark.parametrize(
    "seconds,expected",
    [
        (0.25, "0.2 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (171.4, "2 min 51 s"),
        (3599.6, "1 h 0 min"),
        (7384, "2 h 3 min"),
        (3 * 86400 + 4 * 3600, "3 days 4 h"),
    ],
)
def test_times(seconds, expected):
    assert duration(seconds) == expected
    assert duration(8.3, 0) == "8 s" and duration(59.6, 0) == "1 min 0 s"
