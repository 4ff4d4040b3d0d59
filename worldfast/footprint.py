"""What an ensemble's training takes on a GPU, in bytes; importing it needs neither a GPU nor Triton.

The tables are the memory that worldfast.batched takes, so that an estimate is what will be taken.
"""

from __future__ import annotations

from collections.abc import Iterator

from worldfast.transformer import ModelSpec, buffer_size

__all__ = ["LAYER", "STEP", "TOKEN", "footprint", "places", "sizes"]

PLACES = 128  # a member's places for tokens are a multiple of this
CHUNK_BYTES = 1 << 26  # of rows that are made ahead, for all members

# name -> (numbers of a token, bytes of each; None: those of the products' dtype)
LAYER = {"qkv": ("3 D", None), "mixed": ("D", None), "gate_up": ("2 F", None)}
LAYER |= {"x": ("D", 4), "normed": ("D", None), "scale": ("1", 4)}  # of each of a layer's two norms
STEP = {"added": ("D", None), "gated": ("F", None), "grad_gated": ("F", None), "grad_qkv": ("3 D", None)}
STEP |= {"grad_x": ("D", 4), "rounded": ("D", None), "logits": ("H", 4), "grad_logits": ("H", None)}
TOKEN = {"tokens": ("1", 4), "targets": ("1", 4)}
ONLY_ROUNDED = ("rounded", "grad_logits")  # float32 products take what they are rounded from


def sizes(group: dict, spec: ModelSpec, outputs: int, itemsize: int) -> Iterator[tuple[str, int, int]]:
    """(name, numbers of a token, bytes of each) of a table, where products multiply numbers of `itemsize` bytes."""
    of = {"D": spec.hidden, "F": spec.intermediate, "H": outputs, "1": 1}
    for name, (width, size) in group.items():
        if name in ONLY_ROUNDED and itemsize == 4:
            continue
        *times, letter = width.split()
        yield name, int("".join(times) or 1) * of[letter], size or itemsize


def places(tokens: int) -> int:
    """A member's places for so many tokens."""
    return max(1, -(-tokens // PLACES)) * PLACES


def footprint(spec: ModelSpec, vocabulary: int, members: int, row_tokens: int, products: str) -> int:
    """Bytes that training an ensemble takes on a GPU, but for what a process takes for the device itself.

    members      M
    row_tokens   tokens of a member's rows in a step, at most: rows of a batch times tokens of the longest
    products     "float32" or "bfloat16"
    """
    itemsize, D = (2 if products == "bfloat16" else 4), spec.hidden
    shapes = spec.shapes(vocabulary)
    P, C = buffer_size(shapes.each()), places(row_tokens)
    per_parameter = 4 * 4 + (2 if itemsize == 2 else 0)  # parameter, gradient, two moments; rounded
    token = 0
    for group, copies in ((LAYER, spec.layers), (STEP, 1), (TOKEN, 1)):
        for name, width, size in sizes(group, spec, shapes.head[0], itemsize):
            norms = 2 * copies + 1 if name in ("x", "normed", "scale") else copies
            token += norms * width * size
    # parts of sums: of the norms' weights for each 32 tokens or fewer, of the embedding for each 512
    tile = max(1, min(32, 4096 // (1 << (D - 1).bit_length())))
    parts = 4 * (-(-C // tile) * (2 * spec.layers + 1) * D + -(-C // 512) * vocabulary * D) + 8 * C
    return members * (P * per_parameter + C * token + parts) + 4 * P + CHUNK_BYTES
