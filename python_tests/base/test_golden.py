"""What golden.json holds is made again, and is the same."""

import json

import golden
import pytest
from vectors import WIDTHS

KEPT = json.loads(golden.GOLDEN.read_text())


def test_labels_and_tokens():
    assert golden.rows() == KEPT["rows"]


@pytest.mark.parametrize("width", [w for w in golden.WIDTHS if w in WIDTHS])
def test_weights_and_activations(width):
    assert golden.trained(width) == KEPT["trained"][str(width)]


def test_tables():
    for name, summary in golden.tables().items():
        kept = KEPT["tables"][name]
        numbers = [column for column, value in kept.items() if not isinstance(value, str)]
        assert {column: summary.pop(column) for column in numbers} == pytest.approx(
            {column: kept.pop(column) for column in numbers}, rel=1e-9, nan_ok=True
        ), name
        assert summary == kept, name


def test_page():
    assert golden.page() == KEPT["page"]


def test_identities():
    assert golden.identities() == KEPT["identities"]
