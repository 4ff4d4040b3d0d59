"""Sentences that count things: one of them is singular, and thousands are told apart."""

import pytest

from worldfast.display import count


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
