"""The ensemble: M transformers of one shape, trained and read as one.

Every model is an ensemble; one model is M = 1. The parameters of all members are one float32 buffer [M, P].
Rows of tokens lie end to end without padding, member after member, and a member's arithmetic never touches
another's: it has the bits that it would have alone, whatever the number of threads.

On a CPU a member's rows are cut into tiles of about a thousand tokens, and dealt out to LANES partial sums; a
lane is one job for one thread, so that threads meet twice a step and not once an operation, and lanes are
added in order. Rows that begin alike ("<bos>perimeter(") and stand together share the computation of their
beginning: causal attention cannot tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldfast._native import core
from worldfast.errors import unknown_name
from worldfast.models.decoding import Scratch, greedy, share
from worldfast.models.transformer import (
    MATMUL_DTYPES,
    Tile,
    TransformerSpec,
    buffer_size,
    draw,
    named_as_huggingface,
    native,
    views,
)
from worldfast.rows import Shape

__all__ = ["Ensemble", "TransformerSpec", "Rows"]

LANES = 4  # a constant, so that results do not depend on the machine
LANE_LIMIT = 1 << 22  # parameters behind the embeddings; a larger model is one lane, its operations use threads
TILE = 1 << 20  # numbers in the widest activation of a tile
LONGEST_SHARED = 16  # tokens: the words before a row's first city are at most 11


class Rows(NamedTuple):
    """Packed rows of m members, flat: L tokens, R rows, K positions to read out.

    tokens          int32 [L]
    cu_seqlens      int32 [R + 1]    row r is tokens[cu_seqlens[r]:cu_seqlens[r + 1]]
    offsets         m + 1 integers   the i-th member owns tokens[offsets[i]:offsets[i + 1]], whole rows
    scored          int64 [K]        positions to read out, ascending
    targets         int64 [K]        the token to answer at each; None where nothing is learned
    """

    tokens: Tensor
    cu_seqlens: Tensor
    offsets: Sequence[int]
    scored: Tensor
    targets: Tensor | None = None


class _Piece(NamedTuple):
    """A tile and whose it is."""

    slot: int  # which of the rows' members
    part: slice  # of the tokens that are computed
    scored_part: slice
    tile: Tile


class Ensemble:
    """M members of one shape.

    spec         TransformerSpec
    vocabulary   number of tokens, V
    members      M
    device       "cpu", "cuda" ...
    threads      CPU threads, None: torch's number. Results do not depend on it
    matmul_dtype    what matrices are multiplied in while learning: "float32", or "bfloat16" with float32 sums,
                 parameters, norms and residual stream. Reading is float32 always

    .parameters and .gradients are float32 [M, P]; .decayed float32 [P] is 1 where weight decay applies: on
    all but biases and norms. .weights[m] holds a member's parameters as views. .threads is the number in use.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        vocabulary: int,
        members: int = 1,
        *,
        device="cpu",
        threads: int | None = None,
        matmul_dtype: str = "float32",
    ):
        if members < 1:
            raise ValueError(f"members: expected at least 1, got {members}")
        if matmul_dtype not in MATMUL_DTYPES:
            raise unknown_name("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        self.spec, self.vocabulary, self.members, self.matmul_dtype = spec, vocabulary, members, matmul_dtype
        self.device = torch.device(device)
        self._shapes = spec.shapes(vocabulary)
        self.size = buffer_size(self._shapes.each())  # P
        self._inner = buffer_size([self._shapes.embed])  # where the parameters behind the embeddings begin
        self.outputs = self._shapes.head[0]
        self.shape = Shape(vocabulary, self.outputs)
        self.parameters = torch.zeros(members, self.size, device=self.device)
        self.weights = [views(self._shapes, row) for row in self.parameters]
        self.decayed = torch.zeros(self.size, device=self.device)
        for view in views(self._shapes, self.decayed).each():
            view.fill_(view.ndim == 2)
        widest = max(2 * spec.intermediate, 3 * spec.hidden)
        self._tile = min(max(TILE // widest, 512), 4096)  # tokens
        self._lanes = LANES if self.size - self._inner <= LANE_LIMIT else 1
        self.threads = threads or torch.get_num_threads()
        self._inside = 1 if self._lanes > 1 else self.threads  # threads of an operation
        self._threads = _Threads(self.threads // self._inside)
        self._packed: dict[str, tuple] = {}
        self._gradients = None

    @property
    def gradients(self) -> Tensor:
        if self._gradients is None:
            self._gradients = torch.zeros_like(self.parameters)
            more = np.zeros((self.members, self._lanes - 1, self.size), dtype=np.float32)
            # [M][lanes] of [P]; the first lane is the gradient itself
            self._lane_sums = [[first, *others] for first, others in zip(self._gradients.numpy(), more)]
        return self._gradients

    def _pack(self, members: Sequence[int], matmul_dtype: str) -> tuple[core.Transformer, np.ndarray]:
        """What computes with such products, and all members' matrices as it wants them, packed for these."""
        if matmul_dtype not in self._packed:
            transformer = native(self.spec, self.vocabulary, matmul_dtype)
            self._packed[matmul_dtype] = transformer, np.empty((self.members, transformer.packed_bytes), np.uint8)
        transformer, packed = self._packed[matmul_dtype]
        for member in set(members):
            transformer.pack(self.parameters[member], packed[member], self.threads)
        return transformer, packed

    # ---- weights in and out ----

    def initialise(self, member: int, seed: int) -> None:
        """Draws a member's first weights: matrices normal(0, init_std), biases 0, norms 1."""
        draw(self.weights[member], seed, self.spec.init_std)

    def to_huggingface(self, member: int) -> dict[str, Tensor]:
        """A member's weights on the CPU under the tensor names of transformers.Qwen2ForCausalLM. Where the
        head answers a part of the vocabulary, `lm_head.weight` has the rows of that part."""
        return {name: view.cpu().clone() for name, view in self._huggingface(member).items()}

    def from_huggingface(self, member: int, tensors: dict[str, Tensor]) -> None:
        """Sets a member's weights from tensors as `to_huggingface` gives them; ValueError for others."""
        weights = self._huggingface(member)
        for name in sorted(weights.keys() ^ tensors.keys()):
            what = "missing" if name in weights else "no weight of this model"
            raise ValueError(f"tensors: {name!r} is {what}")
        for name, view in weights.items():
            came = tensors[name].shape
            if came != view.shape:
                raise ValueError(f"tensors: {name!r} has shape {list(came)}, expected {list(view.shape)}")
        for name, view in weights.items():
            view.copy_(tensors[name])

    def _huggingface(self, member: int) -> dict[str, Tensor]:
        """A member's parameters as views, by Hugging Face name, in the order in which they are drawn."""
        return named_as_huggingface(self.weights[member])

    def places(self) -> dict[str, slice]:
        """Where each tensor of `to_huggingface` stands, flat, in a member's parameters and gradients [P]."""
        named = self._huggingface(0)
        return {name: slice(at := view.storage_offset(), at + view.numel()) for name, view in named.items()}

    # ---- reading ----

    def logits(self, rows: Rows, members: Sequence[int] | None = None) -> Tensor:
        """float32 [K, outputs] at the scored positions. members: whose rows they are (default: all)."""
        out = np.empty((len(rows.scored), self.outputs), dtype=np.float32)
        self._read(rows, members, (), [], out)
        return torch.from_numpy(out)

    def hidden_states(
        self, rows: Rows, layers: Sequence[int] | None = None, members: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The residual stream at the scored positions, float32 [K, D] for each of `layers` (default: all).

        Layers count as in Hugging Face: 0 the embeddings, k after block k, the last after the final norm.
        IndexError for a layer that the model does not have.
        """
        layers = self._layers(layers)
        states = [np.empty((len(rows.scored), self.spec.hidden), dtype=np.float32) for _ in layers]
        self._read(rows, members, layers, states, None)
        return [torch.from_numpy(state) for state in states]

    def _layers(self, layers: Sequence[int] | None) -> list[int]:
        layers = list(range(self.spec.layers + 1) if layers is None else layers)
        for layer in layers:
            if not 0 <= layer <= self.spec.layers:
                raise IndexError(f"layers: expected 0 to {self.spec.layers}, got {layer}")
        return layers

    def _read(self, rows, members, layers, states, logits):
        members = self._named(rows, members)
        _, pieces = self._cut(rows, members)
        transformer, packed = self._pack(members, "float32")

        def read(piece, scratch):
            member, part = members[piece.slot], piece.scored_part
            transformer.read(
                self.parameters[member],
                packed[member],
                piece.tile,
                layers,
                [state[part] for state in states],
                None if logits is None else logits[part],
                scratch.arena,
                self._inside,
            )

        self._threads.run(read, pieces)

    def answer(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        longest: int = 16,
        members: Sequence[int] | None = None,
        matmul_dtype: str | None = None,
    ) -> list[list[np.ndarray]]:
        """Greedy answers to each member's prompts: the tokens before <eos>, int32 [up to `longest`] each.

        prompts    for each member tokens, integers [N, T], and length, integers [N], 1 to T: prompt i is
                   tokens[i, :length[i]]
        members    whose prompts they are (default: all)
        matmul_dtype   what matrices are multiplied in: "float32", or "bfloat16" with float32 sums; None: as the
                   ensemble learns

        An answer depends on its prompt alone, but where the two likeliest tokens are within rounding.
        """
        members, matmul_dtype = self._asked(prompts, longest, members, matmul_dtype)
        tiles = [share(*self._checked(*of_member), self._tile) for of_member in prompts]
        transformer, packed = self._pack(members, matmul_dtype)
        answers = [[None] * len(length) for _, length in prompts]

        def read(job, scratch):
            slot, tile = job
            model = self.parameters[members[slot]], packed[members[slot]]
            found = greedy(self.spec, transformer, model, tile, longest, scratch, self._inside)
            for row, i in zip(tile.rows, tile.answer):
                answers[slot][row] = found[i]

        self._threads.run(read, [(slot, tile) for slot, of_member in enumerate(tiles) for tile in of_member])
        return answers

    def _asked(self, prompts, longest, members, matmul_dtype) -> tuple[Sequence[int], str]:
        """Whose the prompts are, and the products of their answers."""
        members = range(self.members) if members is None else members
        if len(members) != len(prompts):
            raise ValueError(f"members: {len(members)} named, but the prompts are those of {len(prompts)}")
        for member in members:
            if not 0 <= member < self.members:
                raise IndexError(f"members: expected 0 to {self.members - 1}, got {member}")
        if isinstance(longest, bool) or not isinstance(longest, int):
            raise TypeError(f"longest: expected an integer, got {longest!r}")
        if longest < 1:
            raise ValueError(f"longest: expected at least 1 token, got {longest}")
        matmul_dtype = self.matmul_dtype if matmul_dtype is None else matmul_dtype
        if matmul_dtype not in MATMUL_DTYPES:
            raise unknown_name("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        return members, matmul_dtype

    def _checked(self, tokens, length) -> tuple[np.ndarray, np.ndarray]:
        """A member's prompts as arrays."""
        tokens, length = np.asarray(tokens), np.asarray(length)
        if tokens.ndim != 2 or length.shape != tokens.shape[:1]:
            got = f"{list(tokens.shape)} and {list(length.shape)}"
            raise ValueError(f"prompts: expected tokens [N, T] and length [N], got shapes {got}")
        if not (np.issubdtype(tokens.dtype, np.integer) and np.issubdtype(length.dtype, np.integer)):
            raise TypeError(f"prompts: expected integers, got {tokens.dtype} and {length.dtype}")
        for n in length[(length < 1) | (length > tokens.shape[1])]:
            raise ValueError(f"prompts: expected a length of 1 to {tokens.shape[1]}, got {n}")
        read = np.arange(tokens.shape[1]) < length[:, None]
        for token in tokens[read & ((tokens < 0) | (tokens >= self.vocabulary))]:
            raise ValueError(f"prompts: token {token} is outside the model's vocabulary of {self.vocabulary}")
        return tokens, length

    # ---- learning ----

    def learn(self, rows: Rows, members: Sequence[int] | None = None) -> Tensor:
        """Sets members' gradients to those of their summed loss, the cross entropy at the scored positions.

        members   whose rows they are (default: all, in order); the gradients of others stay as they were
        Returns the summed losses, float64 [len(members)].
        """
        members = self._named(rows, members)
        gradients = self.gradients
        tokens, cut = self._cut(rows, members)
        transformer, packed = self._pack(members, self.matmul_dtype)
        losses = np.zeros((len(members), self._lanes))
        arrived = np.empty((len(tokens), self.spec.hidden), dtype=np.float32)  # gradients at tokens
        pieces = [[piece for piece in cut if piece.slot == slot] for slot in range(len(members))]

        def lane(job, scratch):
            slot, k = job
            member = members[slot]
            sums = self._lane_sums[member][k]
            sums[self._inner :].fill(0)
            for piece in pieces[slot][k :: self._lanes]:
                losses[slot, k] += transformer.learn(
                    self.parameters[member],
                    packed[member],
                    piece.tile,
                    sums,
                    arrived[piece.part],
                    scratch.arena,
                    self._inside,
                )

        def gather(slot, scratch):
            lanes = self._lane_sums[members[slot]][: len(pieces[slot])]
            part = slice(pieces[slot][0].part.start, pieces[slot][-1].part.stop)
            embedding = views(self._shapes, gradients[members[slot]]).embed
            core.gather_gradient(lanes, self._inner, tokens[part], arrived[part], embedding)

        slots = range(len(members))
        self._threads.run(lane, [(slot, k) for k in range(self._lanes) for slot in slots if pieces[slot][k:]])
        self._threads.run(gather, slots)
        return torch.from_numpy(losses.sum(1))

    def each(self, job: Callable, items: Iterable) -> list:
        """[job(item) for item in items], on the ensemble's threads."""
        return self._threads.run(lambda item, _: job(item), items)

    def _named(self, rows: Rows, members: Sequence[int] | None) -> Sequence[int]:
        members = range(self.members) if members is None else members
        if len(members) != len(rows.offsets) - 1:
            of = len(rows.offsets) - 1
            raise ValueError(f"members: {len(members)} named, but the rows are those of {of}")
        return members

    def _cut(self, rows: Rows, members: Sequence[int]) -> tuple[np.ndarray, list[_Piece]]:
        """The tokens that are computed, int32 [U], and the rows in pieces, each whole rows of one member.

        A row shares the tokens in which it begins as the row before it does. Where to cut depends on a
        member's own rows alone.
        """
        tokens, starts, scored = (x.cpu().numpy() for x in (rows.tokens, rows.cu_seqlens, rows.scored))
        targets = None if rows.targets is None else rows.targets.cpu().numpy()
        cuts = []  # (slot, first row, row behind the last)
        for slot, (begin, end) in enumerate(pairwise(rows.offsets)):
            if begin == end:
                raise ValueError(f"rows: member {members[slot]} has none")
            first, last = np.searchsorted(starts, (begin, end))
            count = max(1, round((end - begin) / self._tile))
            if count > 1:  # lanes of one length
                count = max(1, round(count / self._lanes)) * self._lanes
            ideal = begin + np.arange(1, count) * (end - begin) / count
            inner = first + np.searchsorted(starts[first:last], ideal)
            cuts += [(slot, r0, r1) for r0, r1 in pairwise(np.unique([first, *inner, last]))]
        place, first, alike = _share(tokens, starts, [r0 for _, r0, _ in cuts])
        pieces = []
        for slot, r0, r1 in cuts:
            t0, t1 = starts[[r0, r1]]
            u0, u1 = np.searchsorted(first, (t0, t1))
            s0, s1 = np.searchsorted(scored, (t0, t1))
            tile = Tile(
                tokens[first[u0:u1]],
                starts[r0 : r1 + 1] - t0,
                (place[t0:t1] - u0).astype(np.int32),
                alike[r0:r1],
                place[scored[s0:s1]] - u0,
                None if targets is None else targets[s0:s1],
            )
            pieces.append(_Piece(slot, slice(u0, u1), slice(s0, s1), tile))
        return tokens[first], pieces


def _share(tokens: np.ndarray, starts: np.ndarray, anew: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which tokens are computed, where rows that begin alike stand together.

    tokens int32 [L]; starts int32 [R + 1]; anew: rows that share nothing with the row before them. Returns
    place int64 [L], each token's place among those computed; first int64 [U], where each of those is; and int32
    [R], the tokens that a row shares with the row before it.
    """
    length = np.diff(starts)  # [R]
    column = np.arange(min(LONGEST_SHARED, length.max(initial=1)))
    inside = column < length[:, None]  # [R, C]
    at = np.minimum(starts[:-1, None] + column, len(tokens) - 1)
    begin = tokens[at]  # [R, C], where inside
    alike = np.zeros(len(length), dtype=np.int32)
    alike[1:] = np.cumprod((begin[1:] == begin[:-1]) & inside[1:] & inside[:-1], axis=1).sum(1)
    alike[anew] = 0
    computed = np.ones(len(tokens), dtype=bool)
    shared = column < alike[:, None]  # [R, C]
    computed[at[shared]] = False
    place = np.cumsum(computed) - 1
    # a shared token stands in the nearest row above that does not share it
    owner = np.maximum.accumulate(np.where(shared, 0, np.arange(len(length))[:, None]), axis=0)
    place[at[shared]] = place[at[owner, column][shared]]
    return place, np.flatnonzero(computed), alike


class _Threads:
    """Threads that run jobs, each with memory of its own."""

    def __init__(self, count: int):
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(count, "worldfast", self._start)

    def _start(self):
        self._local.scratch = Scratch()

    def run(self, job: Callable, items: Iterable) -> list:
        """[job(item, scratch) for item in items]; raises the first job's error when all have ended."""
        futures = [self._pool.submit(lambda item=item: job(item, self._local.scratch)) for item in items]
        wait(futures)
        return [future.result() for future in futures]
