"""Recurrent networks: plain ("rnn") and long short-term memory ("lstm"), step by step over packed rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from worldfast.errors import number, one_of, typed
from worldfast.models.autograd import NamedEnsemble, autograd_bytes
from worldfast.models.chance import generators
from worldfast.models.spec import CpuBytes, Spec, require_sizes
from worldfast.rows import Rows, Shape

KINDS = {"rnn": 1, "lstm": 4}  # gates
NONLINEARITIES = {"tanh": torch.tanh, "relu": torch.relu}
INITS = ("hidden", "fan_in")
RECURRENCES = ("uniform", "sparse", "orthogonal")
ENGINES = ("auto", "native", "plain")
OF_RNN = {"nonlinearity": "tanh", "leak": 1, "decays": True, "noise": 0, "recurrence": "uniform"}
DENSITY = 0.15  # of sparse recurrent weights


@dataclass(frozen=True)
class RecurrentSpec(Spec["Recurrent"]):
    """Recurrent network: its kind, its size and its initial scale.

    Tokens pass through an embedding of width `hidden`; vectors enter the first layer as they are. With the defaults the
    layers are those of torch.nn.RNN and torch.nn.LSTM: h = f(W_ih x + b_ih + W_hh h + b_hh), from h = 0 at the
    beginning of each row. A linear map with a bias reads the outputs from the last layer.

    Parameters
    ----------
    kind : {"rnn", "lstm"}
    hidden : int
        Units of a layer.
    layers : int
    nonlinearity : {"tanh", "relu"}
        Function f of an "rnn".
    leak : float
        Share, above 0 to 1, of an "rnn" unit's state that a step replaces: h = (1 - leak) h + leak f(...). It is dt /
        tau of a leaky unit.
    decays : bool
        False: nothing of an "rnn" unit's state is lost, h = h + leak f(...).
    noise : float
        Standard deviation of normal noise that is added to what f is applied to, in an "rnn" while it learns, drawn
        afresh at each step. Each row has its own, a function of its inputs (worldfast.models.chance), so that a model
        learns the same alone as in an ensemble; the code of arXiv 2407.11249 draws one for all rows of a batch.
    bias : bool
        Give the layers their two biases.
    init : {"hidden", "fan_in"}
        Initial weights and biases of the layers are uniform up to 1 / sqrt(hidden), as in PyTorch, or up to 1 /
        sqrt(inputs of the matrix), as in torch.nn.Linear. Embeddings are normal with standard deviation 1; the output
        map is uniform up to 1 / sqrt(hidden).
    recurrence : {"uniform", "sparse", "orthogonal"}
        Initial recurrent weights of an "rnn": as `init` has them; normal with standard deviation sqrt(2 / (0.15
        hidden)), each with a chance of 0.15, and 0 otherwise; or a random orthogonal matrix. None of them is held at 0.
    outputs : int, optional
        Number of classes that can be answered, the first ones; None means all outputs of the data.
    engine : {"auto", "native", "plain"}
        Implementation: the native core, which is for a CPU, or PyTorch. "auto" is "native" on a CPU, else "plain".

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> spec = wf.RecurrentSpec("lstm", hidden=8)
    >>> data = cities.Dataset("distance", rows=10)
    >>> ensemble = spec.build(data.shape, members=2)
    >>> ensemble.initialise(0, seed=1)
    >>> rows = data.stream(seed=0).batch(0, 4)
    >>> ensemble.outputs(rows, member=0).shape == (len(rows.scored), data.shape.outputs)
    True
    """

    kind: str = "rnn"
    hidden: int = 64
    layers: int = 1
    nonlinearity: str = "tanh"
    leak: float = 1.0
    decays: bool = True
    noise: float = 0.0
    bias: bool = True
    init: str = "hidden"
    recurrence: str = "uniform"
    outputs: int | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        names = dict(kind=KINDS, nonlinearity=NONLINEARITIES, init=INITS, recurrence=RECURRENCES, engine=ENGINES)
        for name, known in names.items():
            one_of(f"model.{name}", getattr(self, name), known)
        require_sizes(self, ("hidden", "layers", "outputs"))
        object.__setattr__(self, "leak", number("model.leak", self.leak))
        if not 0 < self.leak <= 1:
            raise ValueError(f"model.leak: expected a number above 0 and at most 1, got {self.leak}")
        object.__setattr__(self, "noise", number("model.noise", self.noise))
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"model.noise: expected a number of at least 0, got {self.noise}")
        for name in ("bias", "decays"):
            typed(f"model.{name}", getattr(self, name), bool, "True or False")
        if self.kind == "lstm":
            for name, default in OF_RNN.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f"model.{name}: expected {default!r}, its default, got {getattr(self, name)!r}: it is for "
                        "model.kind 'rnn'; leave it out for an 'lstm'"
                    )

    def shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter, named as in PyTorch's modules `embed`, `rnn` and `head`."""
        H, rows, outputs = self.hidden, KINDS[self.kind] * self.hidden, self.of(shape).outputs
        found: dict[str, tuple[int, ...]] = {} if shape.vectors else {"embed.weight": (shape.inputs, H)}
        for layer in range(self.layers):
            read = shape.inputs if shape.vectors and layer == 0 else H
            found |= {f"rnn.weight_ih_l{layer}": (rows, read), f"rnn.weight_hh_l{layer}": (rows, H)}
            if self.bias:
                found |= {f"rnn.bias_ih_l{layer}": (rows,), f"rnn.bias_hh_l{layer}": (rows,)}
        return found | {"head.weight": (outputs, H), "head.bias": (outputs,)}

    def sizes(self, shape: Shape) -> Iterable[tuple[int, ...]]:
        return self.shapes(shape).values()

    def cpu_bytes(self, shape: Shape, inputs: int, threads: int, matmul_dtype: str, longest: int) -> CpuBytes:
        """Return an upper bound on memory while learning from batches of `inputs` inputs."""
        from worldfast.models import CpuRecurrent

        if self.engine != "plain":
            return CpuRecurrent.cpu_bytes(self, shape, inputs, threads)
        gates = KINDS[self.kind]
        kept = self.hidden * (2 + self.layers * (2 * gates + (10 if self.kind == "lstm" else 5)))
        kept += (shape.inputs if shape.vectors else 2) + 5 * self.of(shape).outputs
        return autograd_bytes(self.sizes(shape), inputs, kept, threads)

    def _build(
        self,
        shape: Shape,
        members: int,
        device: str | torch.device,
        threads: int | None,
        matmul_dtype: str,
        longest: int | None,
    ) -> Recurrent:
        from worldfast.models import CpuRecurrent

        on_cpu = torch.device(device).type == "cpu"
        if self.engine == "native" and not on_cpu:
            raise ValueError(
                f"model.engine: 'native' is for a CPU, not {device}; use 'plain', which is PyTorch, or 'auto'"
            )
        if self.engine != "plain" and on_cpu:
            return CpuRecurrent(self, shape, members, threads=threads, matmul_dtype=matmul_dtype)
        built = Recurrent(self, shape, members, device=device, threads=threads, matmul_dtype=matmul_dtype)
        built.about = "models in PyTorch"
        return built


class Recurrent(NamedEnsemble):
    """M recurrent networks of one shape.

    The state of layer 0 is the input of the first layer: the embedding of a token, or the vector itself. The state of
    layer k is the output of the k-th layer; of an LSTM, h.

    `tensors` are named as in a torch.nn.Module with an Embedding `embed`, an RNN or LSTM `rnn` and a Linear `head`, so
    that its `load_state_dict` takes them.

    Parameters
    ----------
    spec : RecurrentSpec
    shape : Shape
        Shape of the data.
    members : int
    **options
        Those of AutogradEnsemble.
    """

    def initialise(self, member: int, seed: int) -> None:
        random = self._random(member, seed)
        fan_in: dict[str, int] = {}
        for name, view in self.tensors(member).items():
            if name == "embed.weight":
                drawn = random.standard_normal(view.shape, dtype=np.float32)
            elif "weight_hh" in name and self.spec.recurrence != "uniform":
                fan_in[name] = self.spec.hidden
                drawn = _recurrence(self.spec, random)
            else:
                layer = name.replace("bias", "weight")
                fan_in[name] = view.shape[-1] if view.ndim == 2 else fan_in[layer]
                reads = fan_in[name] if self.spec.init == "fan_in" else self.spec.hidden
                drawn = (2 * random.random(view.shape, dtype=np.float32) - 1) * np.float32(1 / math.sqrt(reads))
            view.copy_(torch.from_numpy(drawn))

    def step_of(self, member: int, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the map of states [n, hidden], float64, to those after a constant input, of an "rnn" of one layer.

        Parameters
        ----------
        member : int
        inputs : Tensor
            [inputs], a vector.

        Raises
        ------
        ValueError
            The network is another, or reads tokens.
        """
        spec = self.spec
        if spec.kind != "rnn" or spec.layers != 1 or not self.shape.vectors:
            raise ValueError(f"member: expected an 'rnn' of one layer that reads vectors, got {spec}")
        named = {name: view.detach().double().cpu() for name, view in self.tensors(member).items()}
        driven = named["rnn.weight_ih_l0"] @ inputs.double()
        if spec.bias:
            driven = driven + named["rnn.bias_ih_l0"] + named["rnn.bias_hh_l0"]
        f, weight = NONLINEARITIES[spec.nonlinearity], named["rnn.weight_hh_l0"]
        return lambda h: (1 - spec.leak if spec.decays else 1) * h + spec.leak * f(driven + h @ weight.T)

    def forward(self, parameters: Tensor, rows: Rows, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        return self._run(parameters, rows, layers, None)

    def learning(self, parameters: Tensor, rows: Rows) -> Tensor:
        noise = torch.from_numpy(self.noise(rows)).to(parameters) if self.spec.noise else None
        return self._run(parameters, rows, (), noise)[0]

    def noise(self, rows: Rows) -> np.ndarray:
        """Return the noise that learning adds to what f is applied to in every layer, float32 [L, layers * hidden]."""
        width = self.spec.layers * self.spec.hidden
        drawn = [
            random.standard_normal((length, width), dtype=np.float32)
            for random, length in zip(generators(rows, "noise"), rows.row_start.diff().tolist())
        ]
        return np.concatenate(drawn) * np.float32(self.spec.noise)

    def _run(
        self, parameters: Tensor, rows: Rows, layers: Sequence[int], noise: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute outputs and states; `noise` is of every layer, [L, layers * hidden]."""
        named, steps = self._named(parameters), _steps(rows.row_start)
        x = rows.inputs[steps.position]
        if not self.shape.vectors:
            x = embedding(x, named["embed.weight"])
        run = self._lstm if self.spec.kind == "lstm" else self._rnn
        found = [x]
        for layer in range(self.spec.layers):
            w_ih, w_hh = (named[f"rnn.weight_{part}_l{layer}"] for part in ("ih", "hh"))
            bias = named[f"rnn.bias_ih_l{layer}"] + named[f"rnn.bias_hh_l{layer}"] if self.spec.bias else None
            before: list[Tensor] = []  # states that each step reads
            driven = linear(found[-1], w_ih, bias)  # all steps at once
            if noise is not None:
                driven = driven + noise.chunk(self.spec.layers, 1)[layer][steps.position]
            driven = _WithRecurrentWeight.apply(driven, w_hh, before).split(steps.sizes)
            states = run(driven, w_hh.detach().T, before)
            found.append(torch.cat(states) if states else x.new_empty(0, self.spec.hidden))
        place = steps.place[rows.scored]
        last = found[-1].index_select(0, place)
        outputs = linear(last, named["head.weight"], named["head.bias"])
        return outputs, [found[layer].index_select(0, place) for layer in layers]

    def _rnn(self, driven: Sequence[Tensor], weight: Tensor, before: list[Tensor]) -> list[Tensor]:
        f, leak, states = NONLINEARITIES[self.spec.nonlinearity], self.spec.leak, []
        h = weight.new_zeros(len(driven[0]) if driven else 0, self.spec.hidden)
        for part in driven:
            h = h[: len(part)]  # rows that have ended are the last ones
            before.append(h.detach())
            new = f(torch.addmm(part, h, weight))
            if not self.spec.decays:
                h = h + leak * new
            else:
                h = new if leak == 1 else h + leak * (new - h)
            states.append(h)
        return states

    def _lstm(self, driven: Sequence[Tensor], weight: Tensor, before: list[Tensor]) -> list[Tensor]:
        states = []
        h = c = weight.new_zeros(len(driven[0]) if driven else 0, self.spec.hidden)
        for part in driven:
            h = h[: len(part)]
            before.append(h.detach())
            into, keep, new, out = torch.addmm(part, h, weight).chunk(4, 1)
            c = keep.sigmoid() * c[: len(part)] + into.sigmoid() * new.tanh()
            h = out.sigmoid() * c.tanh()
            states.append(h)
        return states


def _recurrence(spec: RecurrentSpec, random: np.random.Generator) -> np.ndarray:
    """Return initial recurrent weights that are not uniform, float32 [hidden, hidden]."""
    H = spec.hidden
    drawn = random.standard_normal((H, H))
    if spec.recurrence == "sparse":
        drawn *= (random.random((H, H)) < DENSITY) * math.sqrt(2 / (DENSITY * H))
    else:
        q, r = np.linalg.qr(drawn)
        drawn = q * np.sign(np.diag(r))  # uniform among orthogonal matrices
    return drawn.astype(np.float32)


class _WithRecurrentWeight(torch.autograd.Function):
    """Identity on the input of the steps, [L, G], whose backward pass computes the gradient of the recurrent
    weights, [G, H], in one product over all steps instead of one for each. The steps themselves use the weights
    without a gradient, and record in `before` the states that they read.
    """

    @staticmethod
    def forward(ctx: Any, driven: Tensor, weight: Tensor, before: list[Tensor]) -> Tensor:
        ctx.before, ctx.weight_shape = before, weight.shape
        return driven.view_as(driven)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        before = torch.cat(ctx.before) if ctx.before else grad.new_empty(0, ctx.weight_shape[1])
        return grad, grad.T @ before, None


class _Steps(NamedTuple):
    """Order in which inputs are computed: step after step, side by side for the rows that have not ended."""

    position: Tensor  # int64 [L], position in the rows of the i-th
    place: Tensor  # int64 [L], inverse of `position`
    sizes: list[int]  # rows of each step, descending


def _steps(row_start: Tensor) -> _Steps:
    length, by_length = row_start.long().diff().sort(descending=True, stable=True)  # [R]
    longest = int(length.max()) if len(length) else 0
    step = torch.arange(longest, dtype=torch.int64, device=length.device)[:, None]
    going = step < length  # [T, R]
    position = (row_start.long()[by_length] + step)[going]
    place = torch.empty_like(position)
    place[position] = torch.arange(len(position), dtype=torch.int64, device=place.device)
    return _Steps(position, place, going.sum(1).tolist())
