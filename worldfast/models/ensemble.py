"""Ensemble: M models of one shape that learn in lockstep, each as if it were alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldfast.arrays import integers
from worldfast.errors import one_of, whole
from worldfast.models.buffer import buffer_size, tensors_in
from worldfast.models.sampling import Choice, answered
from worldfast.processes import Remade
from worldfast.rows import CheckedRows, Rows, Shape, require_rows

__all__ = ["MATMUL_DTYPES", "Ensemble"]

MATMUL_DTYPES = ("float32", "bfloat16")  # in which matrices are multiplied
LONGEST_ANSWER = 2**16  # tokens


class Ensemble(Remade, ABC):
    """M models of one shape.

    A family of models implements the abstract methods; training, reading, comparing and capturing use nothing else. A
    member's arithmetic never touches another's: on a CPU its results are bit-identical to those of a single model.

    Attributes
    ----------
    spec
        Frozen spec that built the ensemble: TransformerSpec, RecurrentSpec ...
    shape : Shape
        Shape of inputs and outputs.
    members : int
        M.
    device : torch.device
    threads : int
        CPU threads in use.
    parameters, gradients : Tensor
        float32 [M, P]; gradients are made when they are first asked for.
    decayed : Tensor
        float32 [P]: 1 where weight decay applies, otherwise 0.
    about : str
        Remark on the engine that was chosen, for the first line of progress; "" for none.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Shapes of a member's parameters, in the order of its buffer.
    dtype : torch.dtype
        Type of the parameters.

    Raises
    ------
    ValueError
        `members` is below 1, or `matmul_dtype` is unknown.
    """

    spec: Any
    shape: Shape
    members: int
    device: torch.device
    matmul_dtype: str
    threads: int = 1
    parameters: Tensor
    decayed: Tensor
    about: str = ""

    def __init__(
        self,
        spec: Any,
        shape: Shape,
        shapes: Sequence[tuple[int, ...]],
        members: int,
        device: str | torch.device,
        matmul_dtype: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec, self.shape, self.members = spec, shape, whole("members", members, 1)
        self.device, self.matmul_dtype = torch.device(device), one_of("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        self.parameters = torch.zeros(self.members, buffer_size(shapes), dtype=dtype, device=self.device)
        self.decayed = torch.zeros_like(self.parameters[0], dtype=torch.float32)
        for view in tensors_in(self.decayed, shapes):
            view.fill_(view.ndim == 2)

    @cached_property
    def gradients(self) -> Tensor:
        return torch.zeros_like(self.parameters)

    def __getstate__(self) -> dict[str, Any]:
        return {"about": self.about, "parameters": self.parameters, "gradients": self.__dict__.get("gradients")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.about = state["about"]
        self.parameters.copy_(state["parameters"])
        if state["gradients"] is not None:
            self.gradients.copy_(state["gradients"])

    @abstractmethod
    def initialise(self, member: int, seed: int) -> None:
        """Draw a member's initial weights."""

    def _random(self, member: int, seed: int) -> np.random.Generator:
        """Return the generator of a member's initial weights; raises an error if it is no member or no seed."""
        self._require_members([member])
        return np.random.Generator(np.random.Philox(whole("seed", seed, 0)))

    @abstractmethod
    def learn(self, rows: Sequence[Rows], members: Sequence[int]) -> Tensor:
        """Set members' gradients to those of their summed losses.

        Parameters
        ----------
        rows : sequence of Rows
            With targets, one for each of `members`.
        members : sequence of int
            Each at most once; the gradients of the other members stay as they were.

        Returns
        -------
        Tensor
            Summed losses, float64 [len(members)].

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C: the gradients of these members are then of no use; parameters are as they were.
        """

    @abstractmethod
    def outputs(self, rows: Rows, member: int) -> Tensor:
        """Return a member's outputs at the scored positions, float32 [K, outputs]."""

    @abstractmethod
    def states(self, rows: Rows, member: int, layers: Sequence[int]) -> list[Tensor]:
        """Return a member's hidden states at the scored positions.

        Parameters
        ----------
        rows : Rows
        member : int
        layers : sequence of int
            Layer 0 is the input of the first block; layer k is the output of block k, the last after the final norm.

        Returns
        -------
        list of Tensor
            float32 [K, D] for each of `layers`.

        Raises
        ------
        IndexError
            The model has no such layer.
        """

    def each(self, job: Callable, items: Iterable) -> list:
        """Return [job(item) for item in items], computed on the ensemble's own threads if it has some."""
        return [job(item) for item in items]

    def answer(
        self,
        prompts: Sequence[tuple[np.ndarray, np.ndarray]],
        longest: int = 16,
        members: Sequence[int] | None = None,
        matmul_dtype: str | None = None,
        *,
        end: int,
    ) -> list[list[np.ndarray]]:
        """Answer each member's prompts greedily; inputs and classes are tokens.

        An answer depends on its prompt alone, except where the two likeliest tokens are within rounding of each other.

        Parameters
        ----------
        prompts : sequence of (ndarray, ndarray)
            For each member tokens, integers [N, T], and length, integers [N], 1 to T: prompt i is tokens[i,
            :length[i]].
        longest : int
            Most tokens of an answer.
        members : sequence of int, optional
            Members that the prompts are for; None means all, in order.
        matmul_dtype : {"float32", "bfloat16"}, optional
            Type in which matrices are multiplied; None means the one of training.
        end : int
            Token that ends an answer.

        Returns
        -------
        list of list of ndarray
            For each member and prompt the tokens before `end`, int32 [up to `longest`].
        """
        members = range(self.members) if members is None else members
        if len(members) != len(prompts):
            raise ValueError(f"members: {len(members)} named, but the prompts are those of {len(prompts)}")
        self._require_members(members)
        longest = whole("longest", longest, 1, LONGEST_ANSWER)
        matmul_dtype = self.matmul_dtype if matmul_dtype is None else matmul_dtype
        one_of("matmul_dtype", matmul_dtype, MATMUL_DTYPES)
        asked = [_prompts(tokens, length, self.shape.inputs) for tokens, length in prompts]
        return self._answer(asked, longest, list(members), matmul_dtype, whole("end", end))

    @abstractmethod
    def _answer(
        self,
        prompts: list[tuple[np.ndarray, np.ndarray]],
        longest: int,
        members: list[int],
        matmul_dtype: str,
        end: int,
    ) -> list[list[np.ndarray]]:
        """Return what `answer` does, for arguments that it has checked."""

    def sample(
        self,
        prompts: tuple[np.ndarray, np.ndarray],
        longest: int = 16,
        member: int = 0,
        *,
        draws: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        first: int = 0,
        end: int | None = None,
    ) -> np.ndarray:
        """Draw what may follow prompts, token by token; inputs and classes are tokens.

        The random number of a token is a function of (seed, row, draw, place), so that a draw does not depend on the
        prompts and draws beside it, except where rounding decides between two tokens.

        Parameters
        ----------
        prompts : (ndarray, ndarray)
            Tokens, integers [N, T], and length, integers [N], 1 to T: prompt i is tokens[i, :length[i]].
        longest : int
            Most tokens of an answer.
        member : int
        draws : int
            Answers to each prompt.
        temperature : float
            Logits are divided by it; 0 takes the likeliest token each time, as `answer` does.
        top_k : int, optional
            Only so many of the likeliest tokens are drawn; None: all.
        seed : int
        first : int
            Row of the first prompt, where they are a part of more.
        end : int, optional
            Token that ends an answer; None: answers have `longest` tokens.

        Returns
        -------
        ndarray
            int32 [N, draws, longest], filled with `end` from the end of an answer on.

        Examples
        --------
        >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
        >>> ensemble = spec.build(worldfast.rows.Shape(inputs=10, outputs=10))
        >>> ensemble.initialise(0, seed=0)
        >>> tokens, length = np.array([[3, 1, 4], [1, 5, 0]]), np.array([3, 2])
        >>> ensemble.sample((tokens, length), longest=5, draws=7, temperature=0.8).shape
        (2, 7, 5)
        """
        self._require_members([member])
        longest, draws = whole("longest", longest, 1, LONGEST_ANSWER), whole("draws", draws, 1, 2**31)
        choice = Choice(temperature, top_k, seed).checked()
        end = -1 if end is None else whole("end", end, 0, self.shape.outputs - 1)
        tokens, length = _prompts(*prompts, self.shape.inputs)
        rows = whole("first", first, 0, 2**62) + np.arange(len(length))
        if not len(length):
            return np.zeros((0, draws, longest), np.int32)
        return self._sample((tokens, length), rows, draws, longest, member, choice, end)

    def _sample(
        self,
        prompts: tuple[np.ndarray, np.ndarray],
        rows: np.ndarray,
        draws: int,
        longest: int,
        member: int,
        choice: Choice,
        end: int,
    ) -> np.ndarray:
        """Return what `sample` does, for arguments that it has checked."""
        outputs = lambda rows: self._after(rows, member).float().numpy(force=True)  # noqa: E731
        given = [row[:n] for row, n in zip(*prompts)]
        return answered(outputs, given, rows, draws, longest, choice, end)

    def _after(self, rows: Sequence[np.ndarray], member: int) -> Tensor:
        """Return the outputs after the last token of each row, [n, outputs]."""
        last = torch.from_numpy(np.cumsum([len(row) for row in rows]))
        packed = torch.from_numpy(np.concatenate(rows).astype(np.int32))
        return self.outputs(Rows(packed, torch.cat([last.new_zeros(1), last]), last - 1), member)

    # ---- checks ----

    def _require_targets(self, rows: Sequence[Rows], members: Sequence[int]) -> None:
        """Raise as `_require_rows` does, and a ValueError if a member's rows have no targets."""
        self._require_rows(rows, members)
        for member, of_member in zip(members, rows):
            if of_member.targets is None:
                raise ValueError(f"rows: those of member {member} have no targets to learn from")

    def _require_rows(self, rows: Sequence[Rows], members: Sequence[int]) -> None:
        """Raise a TypeError, ValueError or IndexError if rows do not fit their members."""
        if len(members) != len(rows):
            raise ValueError(f"members: {len(members)} named, but the rows are those of {len(rows)}")
        self._require_members(members)
        if len(set(members)) < len(members):
            raise ValueError(f"members: expected each at most once, got {list(members)}")
        for member, of_member in zip(members, rows):
            if not len(of_member.inputs):
                raise ValueError(f"rows: member {member} has none")
            if not isinstance(of_member, CheckedRows):
                require_rows(of_member, self.shape)

    def _require_layers(self, layers: Sequence[int]) -> None:
        for layer in layers:
            if not 0 <= whole("layers", layer) <= self.spec.layers:
                raise IndexError(f"layers: expected 0 to {self.spec.layers}, got {layer}")

    def _require_members(self, members: Sequence[int]) -> None:
        for member in members:
            if not 0 <= whole("members", member) < self.members:
                raise IndexError(f"members: expected 0 to {self.members - 1}, got {member}")


def _prompts(tokens: np.ndarray, length: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts of a member as arrays, tokens [N, T] and length [N]."""
    tokens, length = integers(tokens, "prompts: tokens", None), integers(length, "prompts: length", None)
    if tokens.ndim != 2 or length.shape != tokens.shape[:1]:
        got = f"{list(tokens.shape)} and {list(length.shape)}"
        raise ValueError(f"prompts: expected tokens [N, T] and length [N], got shapes {got}")
    for n in length[(length < 1) | (length > tokens.shape[1])]:
        raise ValueError(f"prompts: expected a length of 1 to {tokens.shape[1]}, got {n}")
    read = np.arange(tokens.shape[1]) < length[:, None]
    for token in tokens[read & ((tokens < 0) | (tokens >= vocabulary))]:
        raise ValueError(f"prompts: token {token} is outside the model's vocabulary of {vocabulary}")
    return tokens, length
