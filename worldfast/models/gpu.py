"""The ensemble on a GPU: all members at once learn, are read and answer. worldfast.training.gpu_step trains it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from worldfast._native import cuda_device
from worldfast.errors import DeviceError
from worldfast.models.cpu import Ensemble, Rows
from worldfast.models.footprint import READ, answered_at_once, places
from worldfast.models.transformer import TransformerSpec, Weights, views
from worldfast.worlds.cities.tasks import label
from worldfast.worlds.cities.tokens import EOS

__all__ = ["DTYPES", "GpuTransformer", "exact_products", "longest_row", "own_stream", "require_cuda"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # of products
LONGEST_ROW = 128  # tokens, of the attention's kernel
STREAMS = 32  # that torch hands out of one device, over and over


def require_cuda(device: str | torch.device) -> torch.device:
    """The device, with its number, after kernels have run on it.

    DeviceError that says what is missing where it cannot be used.
    """
    found = cuda_device(device)
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError:
        raise DeviceError(device, "training needs Triton 3.4 or later (pip install triton)") from None
    try:
        _try(found)
    except Exception as error:  # of a compiler, a driver, or memory that others have taken
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise DeviceError(device, f"kernels do not run on it: {type(error).__name__}: {first.strip()}") from error
    return found


@functools.cache
def _try(device: torch.device) -> None:
    """Runs a kernel that was compiled when worldfast was built, and one that is compiled now."""
    from worldfast.kernels.norm import norm

    points = torch.tensor([[[0, 0], [3, 4]]], dtype=torch.int32, device=device)
    x, out, scale = (torch.ones(1, 1, width, device=device) for width in (16, 16, 1))
    norm(x, x[0], 1e-6, out, scale[0])
    if label("distance", xy=points).tolist() != [5] or not torch.allclose(out, x, atol=1e-4):
        raise RuntimeError("what they give is wrong")


_owned: weakref.WeakKeyDictionary[object, torch.cuda.Stream] = weakref.WeakKeyDictionary()


def own_stream(device: torch.device, owner: object) -> torch.cuda.Stream:
    """A stream that is the owner's alone for as long as it lives.

    torch keeps one cuBLAS workspace for each stream, and from 2.12 on drops it when any graph that was
    captured on the stream is destroyed: graphs of two owners must not share one. RuntimeError where all are
    taken.
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
    """Float32 products are those of IEEE and bfloat16 ones are added up in float32, whatever was set before,
    by torch's older names (allow_tf32, set_float32_matmul_precision) or its newer one (fp32_precision).

    Only the newer name is read and written: the older ones raise where both were used, and writing one of
    them forgets whether precision was "high" or "medium".
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


class GpuTransformer(Ensemble):
    """An Ensemble whose members learn, are read and answer all at once, on a GPU.

    matmul_dtype   what matrices are multiplied in while learning, and by default while answering: "float32", or
               "bfloat16" with float32 sums, parameters, norms and residual stream. Reading is float32 always
    """

    def __init__(
        self, spec: TransformerSpec, vocabulary: int, members: int = 1, *, device="cuda", matmul_dtype: str = "float32"
    ):
        super().__init__(spec, vocabulary, members, device=device, threads=1, matmul_dtype=matmul_dtype)
        if spec.hidden // spec.heads > 128:
            size = spec.hidden // spec.heads
            raise ValueError(f"model.heads: a GPU's attention has heads of at most 128 numbers, got {size}")

    @property
    def gradients(self) -> Tensor:
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.parameters)
        return self._gradients

    def stacked(self, buffer: Tensor) -> Weights:
        """Views [M, ...] of a buffer [M, P]."""
        return views(self._shapes, buffer)

    # ---- reading ----

    @exact_products()
    def logits(self, rows: Rows, members: Sequence[int] | None = None) -> Tensor:
        out = torch.empty(len(rows.scored), self.outputs, device=self.device)
        for transformers, batch, at, scored in self._pieces(rows, members):
            final = transformers.forward(batch)
            out[scored] = transformers.logits(final)[0, at]
        return out

    @exact_products()
    def hidden_states(
        self, rows: Rows, layers: Sequence[int] | None = None, members: Sequence[int] | None = None
    ) -> list[Tensor]:
        depth = self.spec.layers
        layers = self._layers(layers)
        out = {layer: torch.empty(len(rows.scored), self.spec.hidden, device=self.device) for layer in layers}
        for transformers, batch, at, scored in self._pieces(rows, members):

            def keep(layer, x, at=at, scored=scored):
                if layer in out:
                    out[layer][scored] = x[0, at]

            final = transformers.forward(batch, seen=keep)
            keep(depth, final)
        return [out[layer] for layer in layers]

    def _pieces(self, rows: Rows, members: Sequence[int] | None) -> Iterator[tuple]:
        """(what computes, a batch of one member's rows, places [k] to read out, which of the K they are)."""
        from worldfast.models.gpu_transformer import Batch, Passes

        members = self._named(rows, members)
        tokens, starts, scored = (x.cpu().numpy() for x in (rows.tokens, rows.cu_seqlens, rows.scored))
        longest = longest_row(np.diff(starts))
        for member, (begin, end) in zip(members, pairwise(rows.offsets)):
            mine = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, end, "right")]
            cuts = np.searchsorted(mine, np.arange(begin + READ, end, READ), "right") - 1
            masters = self.stacked(self.parameters[member : member + 1])
            most = places(min(READ + LONGEST_ROW, end - begin))  # a cut is where a row begins
            transformers = Passes(self.spec, masters, masters, most, learns=False)
            for r0, r1 in pairwise(np.unique([0, *cuts, len(mine) - 1])):
                t0, t1 = mine[[r0, r1]]
                batch = torch.zeros(1, places(t1 - t0), dtype=torch.int32)
                batch[0, : t1 - t0] = torch.from_numpy(tokens[t0:t1])
                bounds = torch.from_numpy((mine[r0 : r1 + 1] - t0).astype(np.int32)).to(self.device)
                at = slice(*np.searchsorted(scored, (t0, t1)).tolist())
                where = torch.from_numpy(scored[at] - t0).to(self.device)
                rows_here = bounds[None, :-1].contiguous(), bounds[None, 1:].contiguous()
                yield transformers, Batch(batch.to(self.device), *rows_here, longest), where, at

    # ---- answering ----

    @exact_products()
    def answer(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        longest: int = 16,
        members: Sequence[int] | None = None,
        matmul_dtype: str | None = None,
    ) -> list[list[np.ndarray]]:
        members, matmul_dtype = self._asked(prompts, longest, members, matmul_dtype)
        members = list(members)
        prompts = [self._checked(tokens, length) for tokens, length in prompts]
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
        tile = answered_at_once(self.spec, self.vocabulary, len(members), widest, matmul_dtype)
        for first in range(0, most, tile):
            parts = [order[first : first + tile] for order in orders]
            given = [(tokens[part], length[part]) for (tokens, length), part in zip(prompts, parts)]
            found = _greedy(self.spec, masters, weights, given, longest)
            for of_member, part, rows in zip(answers, parts, found):
                ends = np.pad(rows == EOS, ((0, 0), (0, 1)), constant_values=True).argmax(1)
                for i, row, end in zip(part.tolist(), rows, ends.tolist()):
                    of_member[i] = row[:end]
        return answers

    # ---- learning ----

    @exact_products()
    def learn(self, rows: Rows, members: Sequence[int] | None = None) -> Tensor:
        from worldfast.models.gpu_transformer import Batch, Passes

        members = list(self._named(rows, members))
        tokens, bounds = rows.tokens.cpu(), rows.cu_seqlens.cpu()
        scored, targets = rows.scored.cpu(), rows.targets.cpu().int()
        C = places(max(end - begin for begin, end in pairwise(rows.offsets)))
        ids, asked = (
            torch.zeros(len(members), C, dtype=torch.int32),
            torch.full((len(members), C), -1, dtype=torch.int32),
        )
        starts = [torch.zeros(0, dtype=torch.int32)] * len(members)
        for i, (begin, end) in enumerate(pairwise(rows.offsets)):
            if begin == end:
                raise ValueError(f"rows: member {members[i]} has none")
            ids[i, : end - begin] = tokens[begin:end]
            mine = (scored >= begin) & (scored < end)
            asked[i, scored[mine] - begin] = targets[mine]
            starts[i] = bounds[(bounds >= begin) & (bounds <= end)] - begin + i * C
        longest = longest_row(np.diff(bounds.numpy()))
        most = max(map(len, starts)) - 1
        first, last = torch.zeros(2, len(members), most, dtype=torch.int32)
        for i, of_member in enumerate(starts):
            first[i, : len(of_member) - 1], last[i, : len(of_member) - 1] = of_member[:-1], of_member[1:]
        batch = Batch(*(x.to(self.device).contiguous() for x in (ids, first, last)), longest, asked.to(self.device))
        parameters, gradients = (self.parameters[members], torch.empty(len(members), self.size, device=self.device))
        gradients.zero_()  # the gaps of alignment
        weights = self.stacked(parameters.to(DTYPES[self.matmul_dtype]))
        transformers = Passes(self.spec, self.stacked(parameters), weights, C, learns=True)
        losses = transformers.learn(batch, self.stacked(gradients), gradients)
        self.gradients[members] = gradients
        return losses[..., 0].double().sum(1).cpu()


def longest_row(lengths: np.ndarray) -> int:
    longest = int(lengths.max(initial=1))
    if longest > LONGEST_ROW:
        raise ValueError(f"rows: on a GPU a row, with its answer, has at most {LONGEST_ROW} tokens, got {longest}")
    return longest


def _greedy(spec, masters: Weights, weights: Weights, prompts: list, longest: int) -> list[np.ndarray]:
    """Each member's answers, int32 [n, longest], <eos> behind their ends.

    A prompt's keys and values stand among its places, and behind them is room for those of its answer. Rows
    that have ended leave the batch, but for as many as another member still has.
    """
    from worldfast.models.gpu_transformer import Batch, Passes

    device, m, n = masters.embed.device, len(prompts), max(len(length) for _, length in prompts)
    D = spec.hidden
    lengths = np.zeros((m, n), dtype=np.int64)
    for i, (_, length) in enumerate(prompts):
        lengths[i, : len(length)] = length
    there = lengths > 0
    room = lengths + longest - 1  # also of rows that are not there: they fill up the batch
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
    answers = torch.full((m, n, longest), EOS, dtype=torch.int32, device=device)
    who = torch.arange(n, device=device).expand(m, n)  # rows of the batch
    goes_on = to(there)
    final = final.view(m * C, D)[(ends.long() - 1).clamp(min=0)]  # [m, n, D]
    for step in range(longest):
        following = one.logits(final.contiguous()).argmax(2).int()  # [m, n']
        goes_on = goes_on & (following != EOS)
        answers[:, :, step] = answers[:, :, step].scatter(1, who, torch.where(goes_on, following, EOS))
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
