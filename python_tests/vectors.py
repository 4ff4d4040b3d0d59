"""The widths of vectors that this processor has, and how work is held to one of them."""

import contextlib

from worldfast._native import core

WIDTHS = [width for width in (4, 8, 16) if core.limit_vector_width(width) == width]
core.limit_vector_width(max(WIDTHS))


@contextlib.contextmanager
def vectors_of(width: int):
    """The core's vectors have `width` floats, and after that as many as they may."""
    core.limit_vector_width(width)
    try:
        yield width
    finally:
        core.limit_vector_width(max(WIDTHS))
