"""Memory that training an ensemble takes on a GPU, in bytes; importing this needs neither a GPU nor Triton.

worldfast.models.gpu_transformer and worldfast.models.fused allocate by the same tables, so that estimates are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from worldfast.models.buffer import buffer_size
from worldfast.models.transformer import TransformerSpec
from worldfast.rows import Shape

PLACES = 128  # the number of a member's places for tokens is a multiple of this
READ = 1 << 16  # tokens that are read at once
ANSWER_BYTES = 4 << 30  # for the prompts of all members that are answered at once
ANSWERED_ROW = 512  # bytes of indices for each prompt
FUSED_WIDTHS = (16, 32, 64, 128)  # widths at which a token fits in one tile of a program

# name -> (numbers of a token, bytes of each, number of copies). None bytes: those of the matmul dtype.
# L: one copy for each layer; N: one for each norm, two in each layer and one at the end.
GENERAL = {
    "x": ("D", 4, "N"),
    "normed": ("D", None, "N"),
    "scale": ("1", 4, "N"),
    "qkv": ("3 D", None, "L"),
    "mixed": ("D", None, "L"),
    "gate_up": ("2 F", None, "L"),
    "added": ("D", None, "1"),
    "gated": ("F", None, "1"),
    "grad_gated": ("F", None, "1"),
    "grad_qkv": ("3 D", None, "1"),
    "grad_x": ("D", 4, "1"),
    "rounded": ("D", None, "1"),
    "logits": ("H", 4, "1"),
    "grad_logits": ("H", None, "1"),
}
FUSED = {
    "x": ("D", 4, "N"),
    "qkv": ("3 D", None, "L"),
    "mixed": ("D", None, "L"),
    "final": ("D", None, "1"),
    "scale": ("1", 4, "1"),
    "grad": ("D", None, "1"),
    "grad_x": ("D", 4, "1"),
    "logits": ("H", 4, "1"),
    "grad_logits": ("H", None, "1"),
    # operands of weight gradients, which are computed beside the next layer's
    "normed": ("D", None, "2"),
    "normed_middle": ("D", None, "2"),
    "rounded": ("D", None, "2"),
    "rounded_middle": ("D", None, "2"),
    "gated": ("F", None, "2"),
    "grad_gate_up": ("2 F", None, "2"),
    "grad_qkv": ("3 D", None, "2"),
}
ONLY_LEARNING = ("grad", "rounded")  # prefixes of names
ONLY_ROUNDED = ("rounded", "grad_logits")  # float32 products use the unrounded arrays


class GpuBytes(NamedTuple):
    """Upper bound on the memory that models take on a GPU.

    Attributes
    ----------
    member : int
        Bytes of each model while it learns.
    shared : int
        Bytes that all models share while they learn.
    reading : int
        Bytes of reading one model's hidden states, besides the result.
    answering : int
        Bytes of one model's answers to validation rows.
    """

    member: int
    shared: int
    reading: int
    answering: int


def is_fused(spec: TransformerSpec, matmul_dtype: str) -> bool:
    """Return True if worldfast.models.fused trains such a model."""
    return matmul_dtype != "float32" and spec.hidden in FUSED_WIDTHS


def sizes(table: dict, spec: TransformerSpec, outputs: int, itemsize: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the entries of a table as numbers.

    The logits of a token begin at a multiple of 8, which matrix units prefer.

    Parameters
    ----------
    table : dict
        GENERAL or FUSED.
    spec : TransformerSpec
    outputs : int
        Tokens that the head can answer.
    itemsize : int
        Bytes of a number in matrix products.

    Yields
    ------
    (str, int, int, int)
        Name, numbers of a token, bytes of each, and number of copies.
    """
    of = {"D": spec.hidden, "F": spec.intermediate, "H": outputs + -outputs % 8, "1": 1}
    many = {"1": 1, "2": 2, "L": spec.layers, "N": 2 * spec.layers + 1}
    for name, (width, size, copies) in table.items():
        if name not in ONLY_ROUNDED or itemsize < 4:
            *times, letter = width.split()
            yield name, int("".join(times) or 1) * of[letter], size or itemsize, many[copies]


def places(tokens: int) -> int:
    """Return a member's places for this many tokens."""
    return max(1, -(-tokens // PLACES)) * PLACES


def gpu_bytes(
    spec: TransformerSpec, shape: Shape, inputs: int, prompts: int, width: int, matmul_dtype: str
) -> GpuBytes:
    """Return an upper bound on the memory that models of one shape take on a GPU.

    Parameters
    ----------
    spec : TransformerSpec
    shape : Shape
    inputs : int
        Upper bound on the tokens of a member's rows in a step.
    prompts : int
        Validation rows that each member answers.
    width : int
        Tokens of the longest prompt and its answer.
    matmul_dtype : {"float32", "bfloat16"}
    """
    one, two = (footprint(spec, shape, members, inputs, matmul_dtype) for members in (1, 2))
    rows = min(prompts, answered_at_once(spec, shape, 1, width, matmul_dtype))
    answers = answering(spec, shape, 1, rows, width, matmul_dtype) if rows else 0
    return GpuBytes(two - one, 2 * one - two, reading(spec, shape), answers)


def footprint(spec: TransformerSpec, shape: Shape, members: int, row_tokens: int, matmul_dtype: str) -> int:
    """Return the bytes that training an ensemble takes on a GPU, besides rows that are made ahead and what a process
    takes for the device itself.

    Parameters
    ----------
    spec : TransformerSpec
    shape : Shape
        Shape of the data.
    members : int
        M.
    row_tokens : int
        Upper bound on the tokens of a member's rows in a step: rows of a batch times tokens of the longest row.
    matmul_dtype : {"float32", "bfloat16"}
    """
    itemsize, D = (2 if matmul_dtype == "bfloat16" else 4), spec.hidden
    shapes = spec.shapes(shape)
    P, C, norms = buffer_size(shapes.each()), places(row_tokens), 2 * spec.layers + 1
    per_parameter = 4 * 4 + (2 if itemsize == 2 else 0)  # parameter, gradient and two moments; rounded copy
    table = FUSED if is_fused(spec, matmul_dtype) else GENERAL
    token = sum(width * size * n for _, width, size, n in sizes(table, spec, shapes.head[0], itemsize))
    token += 8  # token id and target
    # partial sums: for norm weights (and biases) one for each 32 tokens or fewer, for the embedding one for each 512
    tile = max(1, min(32, 4096 // (1 << (D - 1).bit_length())))
    parts = -(-C // tile) * (norms * D + (3 * D * spec.layers if table is FUSED else 0))
    parts = 4 * (parts + -(-C // 512) * shape.inputs * D) + 8 * C
    return members * (P * per_parameter + C * token + parts) + 4 * P


def reading(spec: TransformerSpec, shape: Shape) -> int:
    """Return the bytes that reading a member's hidden states or logits takes on a GPU, besides the result."""
    of_token = _forward(spec, shape, "float32")
    gathered = of_token["x"] + 16  # for each token that is read, with its index
    return places(READ + PLACES) * (sum(of_token.values()) + gathered)


def answering(spec: TransformerSpec, shape: Shape, members: int, rows: int, width: int, matmul_dtype: str) -> int:
    """Return an upper bound on the bytes that answering takes on a GPU, besides those of the ensemble.

    Parameters
    ----------
    spec : TransformerSpec
    shape : Shape
    members : int
    rows : int
        Prompts of each member that are answered at once.
    width : int
        Tokens of the longest prompt and its answer.
    matmul_dtype : {"float32", "bfloat16"}
    """
    of_token, of_row = _answering(spec, shape, matmul_dtype)
    copies = 4 + (2 if matmul_dtype == "bfloat16" else 0)  # bytes of a parameter: as it is, and rounded
    parameters = buffer_size(spec.shapes(shape).each())
    return members * (places(rows * width) * of_token + rows * of_row + parameters * copies)


def answered_at_once(spec: TransformerSpec, shape: Shape, members: int, width: int, matmul_dtype: str) -> int:
    """Return how many prompts of each member, `width` tokens each with their answers, ANSWER_BYTES suffice for."""
    of_token, of_row = _answering(spec, shape, matmul_dtype)
    return max(1, ANSWER_BYTES // (members * (width * of_token + of_row)))


def _answering(spec: TransformerSpec, shape: Shape, matmul_dtype: str) -> tuple[int, int]:
    """Return the bytes for each token of a prompt and its answer, and for each prompt: the former keeps keys and
    values of all layers, the latter one token in progress.
    """
    of_prompt = _forward(spec, shape, matmul_dtype)
    of_token = 4 + sum(of_prompt.values()) - of_prompt["logits"] + (spec.layers - 1) * of_prompt["qkv"]
    return of_token, ANSWERED_ROW + sum(of_prompt.values()) + 3 * of_prompt["mixed"]


def _forward(spec: TransformerSpec, shape: Shape, matmul_dtype: str) -> dict[str, int]:
    """Return the bytes of each token by name without learning, when all layers share the same memory."""
    table = {name: row for name, row in GENERAL.items() if not name.startswith(ONLY_LEARNING)}
    itemsize = 2 if matmul_dtype == "bfloat16" else 4
    outputs = spec.shapes(shape).head[0]
    return {name: width * size for name, width, size, _ in sizes(table, spec, outputs, itemsize)}
