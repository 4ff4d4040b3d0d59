"""What an ensemble's training takes on a GPU, in bytes; importing it needs neither a GPU nor Triton.

The tables are the memory that worldfast.models.gpu_transformer and worldfast.models.fused take, so that an estimate is what will
be taken.
"""

from __future__ import annotations

from collections.abc import Iterator

from worldfast.models.transformer import TransformerSpec, buffer_size
from worldfast.rows import Shape

__all__ = [
    "GENERAL",
    "FUSED",
    "READ",
    "answered_at_once",
    "answering",
    "footprint",
    "is_fused",
    "places",
    "reading",
    "sizes",
]

PLACES = 128  # a member's places for tokens are a multiple of this
READ = 1 << 16  # tokens that are read at once
ANSWER_BYTES = 4 << 30  # for prompts that are answered at once, of all members
ANSWERED_ROW = 512  # bytes of indices for each prompt
CHUNK_BYTES = 1 << 28  # of rows that are made ahead, for all members
FUSED_WIDTHS = (16, 32, 64, 128)  # of models whose token is one tile of a program

# name -> (numbers of a token, bytes of each; None: those of the products' dtype; how many there are).
# L: one a layer; N: one a norm, of which a layer has two and the end one.
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
    # what weights' gradients are made of, while the next layer's is made
    "normed": ("D", None, "2"),
    "normed_middle": ("D", None, "2"),
    "rounded": ("D", None, "2"),
    "rounded_middle": ("D", None, "2"),
    "gated": ("F", None, "2"),
    "grad_gate_up": ("2 F", None, "2"),
    "grad_qkv": ("3 D", None, "2"),
}
ONLY_LEARNING = ("grad", "rounded")  # names begin so
ONLY_ROUNDED = ("rounded", "grad_logits")  # float32 products take what they are rounded from


def is_fused(spec: TransformerSpec, matmul_dtype: str) -> bool:
    """Whether worldfast.models.fused trains such a model."""
    return matmul_dtype != "float32" and spec.hidden in FUSED_WIDTHS


def sizes(table: dict, spec: TransformerSpec, outputs: int, itemsize: int) -> Iterator[tuple[str, int, int, int]]:
    """(name, numbers of a token, bytes of each, how many) of a table, where products multiply `itemsize`
    bytes.

    A token's logits begin at a multiple of 8, as matrix units like it.
    """
    of = {"D": spec.hidden, "F": spec.intermediate, "H": outputs + -outputs % 8, "1": 1}
    many = {"1": 1, "2": 2, "L": spec.layers, "N": 2 * spec.layers + 1}
    for name, (width, size, copies) in table.items():
        if name not in ONLY_ROUNDED or itemsize < 4:
            *times, letter = width.split()
            yield name, int("".join(times) or 1) * of[letter], size or itemsize, many[copies]


def places(tokens: int) -> int:
    """A member's places for so many tokens."""
    return max(1, -(-tokens // PLACES)) * PLACES


def footprint(spec: TransformerSpec, shape: Shape, members: int, row_tokens: int, matmul_dtype: str) -> int:
    """Bytes that training an ensemble takes on a GPU, but for what a process takes for the device itself.

    members      M
    row_tokens   tokens of a member's rows in a step, at most: rows of a batch times tokens of the longest
    matmul_dtype    "float32" or "bfloat16"
    """
    itemsize, D = (2 if matmul_dtype == "bfloat16" else 4), spec.hidden
    shapes = spec.shapes(shape)
    P, C, norms = buffer_size(shapes.each()), places(row_tokens), 2 * spec.layers + 1
    per_parameter = 4 * 4 + (2 if itemsize == 2 else 0)  # parameter, gradient, two moments; rounded
    table = FUSED if is_fused(spec, matmul_dtype) else GENERAL
    token = sum(width * size * n for _, width, size, n in sizes(table, spec, shapes.head[0], itemsize))
    token += 8  # what it is, and its target
    # parts of sums: of the norms' weights (and biases) for each 32 tokens or fewer, of the embedding for each
    # 512
    tile = max(1, min(32, 4096 // (1 << (D - 1).bit_length())))
    parts = -(-C // tile) * (norms * D + (3 * D * spec.layers if table is FUSED else 0))
    parts = 4 * (parts + -(-C // 512) * shape.inputs * D) + 8 * C
    return members * (P * per_parameter + C * token + parts) + 4 * P + CHUNK_BYTES


def reading(spec: TransformerSpec, shape: Shape) -> int:
    """Bytes that reading a member's hidden states or logits takes on a GPU, beyond what is read."""
    of_token = _forward(spec, shape, "float32")
    gathered = of_token["x"] + 16  # of a token that is read, with its index
    return places(READ + PLACES) * (sum(of_token.values()) + gathered)


def answering(spec: TransformerSpec, shape: Shape, members: int, rows: int, width: int, matmul_dtype: str) -> int:
    """Upper bound on the bytes that answering takes on a GPU beyond the ensemble's own.

    rows    prompts of each member that are answered at once
    width   tokens of the longest prompt and its answer
    """
    of_token, of_row = _answering(spec, shape, matmul_dtype)
    copies = 4 + (2 if matmul_dtype == "bfloat16" else 0)  # of the members' parameters: as they are, and rounded
    parameters = buffer_size(spec.shapes(shape).each())
    return members * (places(rows * width) * of_token + rows * of_row + parameters * copies)


def answered_at_once(spec: TransformerSpec, shape: Shape, members: int, width: int, matmul_dtype: str) -> int:
    """Prompts of each member, of `width` tokens with their answers, that ANSWER_BYTES are enough for."""
    of_token, of_row = _answering(spec, shape, matmul_dtype)
    return max(1, ANSWER_BYTES // (members * (width * of_token + of_row)))


def _answering(spec: TransformerSpec, shape: Shape, matmul_dtype: str) -> tuple[int, int]:
    """Bytes for each token of a prompt and its answer, and for each prompt: keys and values of all layers are
    kept for the former, and a token of each prompt passes at a time."""
    of_prompt = _forward(spec, shape, matmul_dtype)
    of_token = 4 + sum(of_prompt.values()) - of_prompt["logits"] + (spec.layers - 1) * of_prompt["qkv"]
    return of_token, ANSWERED_ROW + sum(of_prompt.values()) + 3 * of_prompt["mixed"]


def _forward(spec: TransformerSpec, shape: Shape, matmul_dtype: str) -> dict[str, int]:
    """Bytes for each token by name where nothing is learned and a layer's memory is the next one's."""
    table = {name: row for name, row in GENERAL.items() if not name.startswith(ONLY_LEARNING)}
    itemsize = 2 if matmul_dtype == "bfloat16" else 4
    outputs = spec.shapes(shape).head[0]
    return {name: width * size for name, width, size, _ in sizes(table, spec, outputs, itemsize)}
