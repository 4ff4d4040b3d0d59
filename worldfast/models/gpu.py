"""Transformers on a GPU: all members learn and answer at once. worldfast.training.gpu_step trains them."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldfast._native import cuda_device
from worldfast.errors import DeviceError
from worldfast.models.footprint import READ, answered_at_once, places
from worldfast.models.transformer import Transformer, TransformerSpec, Weights, views
from worldfast.rows import Rows, Shape

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # in which matrices are multiplied
LONGEST_ROW = 128  # tokens, limit of the attention kernel
STREAMS = 32  # in torch's pool for one device, reused in turn


def require_cuda(device: str | torch.device) -> torch.device:
    """Return a CUDA device with its number, after a kernel has run on it.

    Parameters
    ----------
    device : str or torch.device

    Raises
    ------
    DeviceError
        The device cannot be used; the message says what is missing.
    """
    found = cuda_device(device)
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError:
        raise DeviceError(device, "training needs Triton 3.4 or later (pip install triton)") from None
    try:
        _try(found)
    except Exception as error:  # from a compiler or driver, or for want of memory
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise DeviceError(device, f"kernels do not run on it: {type(error).__name__}: {first.strip()}") from error
    return found


@functools.cache
def _try(device: torch.device) -> None:
    """Run a small kernel, which is compiled for the device if necessary."""
    from worldfast.kernels.norm import norm

    x, out, scale = (torch.ones(1, 1, width, dtype=torch.float32, device=device) for width in (16, 16, 1))
    norm(x, x[0], 1e-6, out, scale[0])
    if not torch.allclose(out, x, atol=1e-4):
        raise RuntimeError("what it gives is wrong")


_owned: weakref.WeakKeyDictionary[object, torch.cuda.Stream] = weakref.WeakKeyDictionary()


def own_stream(device: torch.device, owner: object) -> torch.cuda.Stream:
    """Return a stream that belongs to the owner alone as long as the owner lives.

    torch keeps one cuBLAS workspace for each stream, and from 2.12 on drops it when any graph that was captured on the
    stream is destroyed: graphs of two owners must not share one.

    Raises
    ------
    RuntimeError
        All streams are taken.
    """
    taken = set(_owned.values())
    for _ in range(STREAMS):
        stream = torch.cuda.Stream(device)
        if stream not in taken:
            _owned[owner] = stream
            return stream
    raise RuntimeError(f"{device}: all {STREAMS} streams are taken; let go of ensembles that are trained")


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in IEEE arithmetic and accumulate bfloat16 products in float32, whatever was set
    before by torch's older names (allow_tf32, set_float32_matmul_precision) or its newer one (fp32_precision).

    Only the newer name is read and written: the older ones raise an error if both were used, and writing one of them
    forgets whether the precision was "high" or "medium".
    """
    flags = torch.backends.cuda.matmul
    precision, reduced = flags.fp32_precision, flags.allow_bf16_reduced_precision_reduction
    if precision == "tf32":
        flags.fp32_precision = "ieee"
    if reduced:  # split_k is True then: torch refuses anything else
        flags.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        if precision == "tf32":
            flags.fp32_precision = "none"  # inherited from torch.backends.fp32_precision, if it is set
            if flags.fp32_precision != precision:
                flags.fp32_precision = precision
        if reduced:
            flags.allow_bf16_reduced_precision_reduction = True


class GpuTransformer(Transformer):
    """Ensemble of transformers on a GPU, whose members learn and answer all at once.

    Parameters
    ----------
    spec : TransformerSpec
        Heads have at most 128 numbers.
    shape : Shape
        Shape of the data.
    members : int
    device : str or torch.device
    matmul_dtype : {"float32", "bfloat16"}
        Type in which matrices are multiplied while learning, and by default while answering; sums, parameters, norms
        and residual stream are float32. Reading is always in float32.

    Raises
    ------
    ValueError
        A head has more than 128 numbers.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        shape: Shape,
        members: int = 1,
        *,
        device: str | torch.device = "cuda",
        matmul_dtype: str = "float32",
    ):
        super().__init__(spec, shape, members, device, matmul_dtype)
        if spec.hidden // spec.heads > 128:
            size = spec.hidden // spec.heads
            raise ValueError(f"model.heads: a GPU's attention has heads of at most 128 numbers, got {size}")

    def stacked(self, buffer: Tensor) -> Weights:
        """Return views [M, ...] of a buffer [M, P]."""
        return views(self._shapes, buffer)

    # ---- reading ----

    @exact_products()
    def outputs(self, rows: Rows, member: int, *, gain: Any = None) -> Tensor:
        out = torch.empty(len(rows.scored), self.shape.outputs, dtype=torch.float32, device=self.device)
        for passes, batch, at, scored in self._parts(rows, member, gain):
            final = passes.forward(batch)
            out[scored] = passes.logits(final)[0, at]
        return out

    @exact_products()
    def states(self, rows: Rows, member: int, layers: Sequence[int], *, gain: Any = None) -> list[Tensor]:
        self._require_layers(layers)
        size, kind = (len(rows.scored), self.spec.hidden), {"dtype": torch.float32, "device": self.device}
        out = {layer: torch.empty(size, **kind) for layer in layers}
        for passes, batch, at, scored in self._parts(rows, member, gain):

            def keep(layer, x, at=at, scored=scored):
                if layer in out:
                    out[layer][scored] = x[0, at]

            final = passes.forward(batch, seen=keep)
            keep(self.spec.layers, final)
        return [out[layer] for layer in layers]

    def _parts(self, rows: Rows, member: int, gain: Any) -> Iterator[tuple]:
        """Yield (passes, a batch of about READ tokens, its tokens [k] to read out, their slice of the K)."""
        from worldfast.models.gpu_transformer import Batch, Passes

        self._require_rows([rows], [member])
        start, scored = rows.row_start.cpu().numpy(), rows.scored.cpu().numpy()
        longest, L = longest_row(np.diff(start)), len(rows.inputs)
        masters = self.stacked(self._gained(member, gain)[None])
        passes = Passes(self.spec, masters, masters, places(min(READ + LONGEST_ROW, L)), learns=False)
        cuts = np.searchsorted(start, np.arange(READ, L, READ), "right") - 1  # where a row begins
        for r0, r1 in pairwise(np.unique([0, *cuts, len(start) - 1])):
            t0, t1 = start[[r0, r1]]
            at = slice(*np.searchsorted(scored, (t0, t1)).tolist())
            part = Rows(rows.inputs[t0:t1], rows.row_start[r0 : r1 + 1] - t0, rows.scored[at] - t0)
            yield passes, Batch.of([part], self.device, longest), part.scored.to(self.device), at

    # ---- answering ----

    @exact_products()
    def _answer(self, prompts, longest, members, matmul_dtype, end) -> list[list[np.ndarray]]:
        answers: list[list] = [[None] * len(length) for _, length in prompts]
        most = max((len(length) for _, length in prompts), default=0)
        widest = max((int(length.max(initial=1)) for _, length in prompts), default=1) + longest - 1
        longest_row(np.array([widest]))
        if not most:
            return answers
        parameters = self.parameters if members == list(range(self.members)) else self.parameters[members]
        masters = self.stacked(parameters)
        weights = self.stacked(parameters.to(DTYPES[matmul_dtype]))
        # the shortest first, so that those of a tile are alike in length
        orders = [np.argsort(length, kind="stable") for _, length in prompts]
        tile = answered_at_once(self.spec, self.shape, len(members), widest, matmul_dtype)
        for first in range(0, most, tile):
            parts = [order[first : first + tile] for order in orders]
            given = [(tokens[part], length[part]) for (tokens, length), part in zip(prompts, parts)]
            found = _greedy(self.spec, masters, weights, given, longest, end)
            for of_member, part, rows in zip(answers, parts, found):
                lengths = np.pad(rows == end, ((0, 0), (0, 1)), constant_values=True).argmax(1)
                for i, row, n in zip(part.tolist(), rows, lengths.tolist()):
                    of_member[i] = row[:n]
        return answers

    # ---- learning ----

    @exact_products()
    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        from worldfast.models.gpu_transformer import Batch, Passes

        self._require_targets(rows, members)
        if any(of_member.weights is not None for of_member in rows):
            raise ValueError("rows: weights of scored positions are not read by the kernels of a GPU")
        members = list(members)
        longest = longest_row(np.concatenate([[0], *(of_member.row_start.cpu().diff().numpy() for of_member in rows)]))
        batch = Batch.of(rows, self.device, longest)
        parameters = self.parameters[members]
        gradients = torch.zeros_like(parameters)  # also of the gaps of alignment
        weights = self.stacked(parameters.to(DTYPES[self.matmul_dtype]))
        passes = Passes(self.spec, self.stacked(parameters), weights, batch.tokens.shape[1], learns=True)
        losses = passes.learn(batch, self.stacked(gradients), gradients)
        self.gradients[members] = gradients
        return losses[..., 0].double().sum(1).cpu()


def longest_row(lengths: np.ndarray) -> int:
    """Return the largest of some lengths of rows, at least 1; ValueError if it is more than a GPU takes."""
    longest = int(lengths.max(initial=1))
    if longest > LONGEST_ROW:
        raise ValueError(f"rows: on a GPU a row, with its answer, has at most {LONGEST_ROW} tokens, got {longest}")
    return longest


def _greedy(spec, masters: Weights, weights: Weights, prompts: list, longest: int, end: int) -> list[np.ndarray]:
    """Return the answers of each member, int32 [n, longest], filled with `end` after their ends.

    The keys and values of a prompt stand in its places, followed by room for those of its answer. Rows that have ended
    leave the batch, as long as no member needs more rows.
    """
    # A token of a model of six layers is 87 launches and one wait, for the number of rows that go on. A CUDA graph
    # would save the launches, but it holds one shape, and rows end at most tokens: a graph for each number of rows
    # would be recorded about as often as it is replayed, and a single shape would keep rows that have ended.
    from worldfast.models.gpu_transformer import Batch, Passes

    device, m, n = masters.embed.device, len(prompts), max(len(length) for _, length in prompts)
    D = spec.hidden
    lengths = np.zeros((m, n), dtype=np.int64)
    for i, (_, length) in enumerate(prompts):
        lengths[i, : len(length)] = length
    there = lengths > 0
    room = lengths + longest - 1  # also for absent rows, which fill up the batch
    C = places(int(room.sum(1).max()))
    begin = np.cumsum(room, 1) - room + C * np.arange(m)[:, None]  # [m, n], among all m C places
    tokens = np.zeros(m * C, dtype=np.int32)
    for i, (ids, length) in enumerate(prompts):
        column = np.arange(ids.shape[1])
        at = (begin[i, : len(length), None] + column)[column < length[:, None]]
        tokens[at] = ids[column < length[:, None]]
    to = lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(device)  # noqa: E731
    starts, ends = to(begin.astype(np.int32)), to((begin + lengths).astype(np.int32))
    widest = int(lengths.max()) + longest - 1
    cached = Passes(spec, masters, weights, C, learns=False, caches=True)
    one = Passes(spec, masters, weights, n, learns=False)
    final = cached.forward(Batch(to(tokens).view(m, C), starts, ends, widest))
    mixed_cache = cached.at("mixed", C).view(m * C, D)
    answers = torch.full((m, n, longest), end, dtype=torch.int32, device=device)
    who = torch.arange(n, dtype=torch.int64, device=device).expand(m, n)  # index of each row of the batch
    goes_on = to(there)
    final = final.view(m * C, D)[(ends.long() - 1).clamp(min=0)]  # [m, n, D]
    for step in range(longest):
        following = one.logits(final.contiguous()).argmax(2).int()  # [m, n']
        goes_on = goes_on & (following != end)
        answers[:, :, step] = answers[:, :, step].scatter(1, who, torch.where(goes_on, following, end))
        most = int(goes_on.sum(1).max())
        if not most or step == longest - 1:
            break
        keep = goes_on.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # [m, n'']
        goes_on, who, following, starts, ends = (x.gather(1, keep) for x in (goes_on, who, following, starts, ends))
        place, ends = ends.long(), ends + 1

        def attend(layer, qkv, mixed, place=place, rows=(starts.reshape(-1), ends.reshape(-1))):
            cache = cached.at("qkv", C, layer)
            cache.view(m * C, 3 * D)[place] = qkv
            cached.attend(cache, rows, widest, mixed_cache.view(m, C, D), last_only=True)
            mixed.copy_(mixed_cache[place])

        final = one.forward(Batch(following.contiguous(), starts, ends, widest), attend=attend)
    return list(answers.cpu().numpy())
