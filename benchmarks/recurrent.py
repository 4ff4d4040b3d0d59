"""Steps of training that recurrent networks take in a second, beside PyTorch: nets of arXiv 2407.11249.

    python benchmarks/recurrent.py [--nets 8] [--steps 100] [--repeats 7] [--threads 2]

A step is of one net: 16 trials of 22 steps through 64 units, 24 answers at each, the gradient, Adam. All begin with the
same weights and take the same steps on the same trials. worldfast makes its trials as it goes, the others find theirs
made. torch.nn.RNN and torch.nn.LSTM train one net after another, as does a loop over steps of time that is written as
the source has it; torch.func and torch.bmm train all nets at once. An error is the largest difference of a loss of
the first 20 steps from that of torch.nn in float64: later, rounding has grown. The limit is the matrix products of the nets.
"""

import numpy as np
import torch
from harness import CORES, Contestant, Unit, arguments, multiplying, run, said, threads
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import worldfast as wf
from worldfast.training.step import Lockstep, Tally
from worldfast.worlds import factors

ALLOWED = 1e-5
COMPARED = 20  # steps


class Together:
    """Runs in an ensemble, as worldfast.training.train takes their steps. A call begins anew."""

    def __init__(self, runs: list[wf.Run], steps: int, count: int):
        first, self.steps = runs[0], steps
        self.ensemble = first.model.build(first.shape, len(runs), threads=count)
        self.lockstep = Lockstep(self.ensemble, runs)
        for member, of_member in enumerate(runs):
            self.ensemble.initialise(member, of_member.seed)
        self.start = self.ensemble.parameters.clone()

    def __call__(self) -> np.ndarray:
        """The losses [M, steps]."""
        self.ensemble.parameters.copy_(self.start)
        self.lockstep.moments.zero_()
        members = range(self.ensemble.members)
        for member in members:
            self.lockstep.resume(member, Tally(0, 0.0, 0, False))
        losses = []
        for _ in range(self.steps):
            for member in members:
                self.lockstep.clear(member)
            self.lockstep.step(members)
            losses.append([self.lockstep.read(member).loss for member in members])
        return np.transpose(losses)


class Batch:
    """Trials of all nets at each step: inputs [steps, M, 16, T, I] and targets [steps, M, 16, T, N]."""

    def __init__(self, runs: list[wf.Run], steps: int):
        made = [[run.stream().drawn(*run.rows_at(step)) for run in runs] for step in range(steps)]
        self.inputs, self.targets = (
            torch.from_numpy(np.array([[getattr(one, name) for one in of_step] for of_step in made]))
            for name in ("inputs", "targets")
        )


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def one_after_another(start: list[dict[str, Tensor]], batch: Batch, net, dtype=torch.float32):
    """Train each net by itself; `net` makes a function of inputs from named parameters. Returns a callable."""

    def train() -> np.ndarray:
        losses = []
        for member, named in enumerate(start):
            named = {name: x.to(dtype, copy=True).requires_grad_() for name, x in named.items()}
            forward, optimizer = net(named), adam(named.values())
            losses.append([])
            for inputs, targets in zip(batch.inputs[:, member], batch.targets[:, member]):
                optimizer.zero_grad()
                loss = binary_cross_entropy_with_logits(forward(inputs.to(dtype)), targets.to(dtype))
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.item())
        return np.array(losses)

    return train


def module(kind: str):
    """Make a net of torch.nn.RNN or torch.nn.LSTM and a linear map."""

    def net(named):
        inputs, hidden = named["rnn.weight_ih_l0"].shape[1], named["rnn.weight_hh_l0"].shape[1]
        options = {} if kind == "lstm" else {"nonlinearity": "relu"}
        rnn = (torch.nn.LSTM if kind == "lstm" else torch.nn.RNN)(inputs, hidden, batch_first=True, **options)
        for name in [*rnn._parameters]:
            rnn._parameters.pop(name)
            rnn._parameters[name] = torch.nn.Parameter(named[f"rnn.{name}"].detach())
            named[f"rnn.{name}"] = rnn._parameters[name]
        rnn._flat_weights = [rnn._parameters[name] for name in rnn._flat_weights_names]
        return lambda x: linear(rnn(x)[0], named["head.weight"], named["head.bias"])

    return net


def step_by_step(named):
    """Make a net that computes every step of time by itself, input product and readout too."""
    w = named

    def forward(x):
        h, outputs = x.new_zeros(len(x), w["rnn.weight_hh_l0"].shape[1]), []
        for inputs in x.unbind(1):
            driven = linear(inputs, w["rnn.weight_ih_l0"], w["rnn.bias_ih_l0"])
            h = torch.relu(driven + linear(h, w["rnn.weight_hh_l0"], w["rnn.bias_hh_l0"]))
            outputs.append(linear(h, w["head.weight"], w["head.bias"]))
        return torch.stack(outputs, 1)

    return forward


def of_all(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Outputs [M, 16, T, N] of M RNNs, of parameters [M, ...], by torch.bmm."""
    (M, R, T, _), turned = x.shape, {name: y.transpose(1, 2) for name, y in w.items() if y.ndim == 3}
    bias = (w["rnn.bias_ih_l0"] + w["rnn.bias_hh_l0"])[:, None]
    driven = torch.baddbmm(bias, x.reshape(M, R * T, -1), turned["rnn.weight_ih_l0"]).view(M, R, T, -1)
    h, states = driven.new_zeros(M, R, driven.shape[-1]), []
    for t in range(T):
        h = torch.relu(torch.baddbmm(driven[:, :, t], h, turned["rnn.weight_hh_l0"]))
        states.append(h)
    states = torch.stack(states, 2).view(M, R * T, -1)
    return torch.baddbmm(w["head.bias"][:, None], states, turned["head.weight"]).view(M, R, T, -1)


def at_once(start: list[dict[str, Tensor]], batch: Batch, gradient):
    """Train all nets together; `gradient` gives named gradients and losses [M]. Returns a callable."""
    stacked = {name: torch.stack([one[name] for one in start]) for name in start[0]}

    def train() -> np.ndarray:
        named, losses = {name: x.clone() for name, x in stacked.items()}, []
        optimizer = adam(named.values())
        for inputs, targets in zip(batch.inputs, batch.targets):
            found, loss = gradient(named, inputs, targets)
            for name, x in named.items():
                x.grad = found[name].contiguous()  # Adam goes through memory as it stands
            optimizer.step()
            losses.append(loss.detach().numpy())
        return np.transpose(losses)

    return train


def by_bmm(named, inputs, targets):
    named = {name: x.detach().requires_grad_() for name, x in named.items()}
    losses = binary_cross_entropy_with_logits(of_all(named, inputs), targets, reduction="none").mean((1, 2, 3))
    return dict(zip(named, torch.autograd.grad(losses.sum(), [*named.values()]))), losses


def by_func(named, inputs, targets):
    def loss_of(named, x, y):
        return binary_cross_entropy_with_logits(step_by_step(named)(x), y)

    return torch.func.vmap(torch.func.grad_and_value(loss_of))(named, inputs, targets)


def operations(run: wf.Run, outputs: int) -> int:
    """Additions and multiplications in the products of a step of one net, forwards and backwards."""
    spec, inputs = run.model, run.batch * run.data.longest
    gates = spec.hidden * (4 if spec.kind == "lstm" else 1)
    return 2 * inputs * (2 * gates * run.shape.inputs + 3 * gates * spec.hidden + 3 * outputs * spec.hidden)


def main():
    parser = arguments(__doc__, repeats=7, threads=[1, CORES])
    parser.add_argument("--steps", type=int, default=100, help="steps of a measurement")
    parser.add_argument("--nets", type=int, default=8)
    options = parser.parse_args()
    steps, nets = (2, 2) if options.quick else (options.steps, options.nets)
    for kind in ("rnn", "lstm"):
        runs = [factors.net(kind, seed, n=24) for seed in range(nets)]
        batch = Batch(runs, steps)
        for count in options.threads:
            with threads(count):
                ours = Together(runs, steps, count)
                start = [{name: x.clone() for name, x in ours.ensemble.tensors(m).items()} for m in range(nets)]
                with said("the reference, torch.nn in float64"):
                    exact = one_after_another(start, batch, module(kind), torch.float64)()
                error = lambda losses, exact=exact: np.abs(losses - exact)[:, :COMPARED].max()  # noqa: E731
                limits = (multiplying(nets * steps * operations(runs[0], 24), torch.float32),)
                name = "torch.nn." + kind.upper()
                found = {
                    "worldfast": ours,
                    f"{name}, one net after another": one_after_another(start, batch, module(kind)),
                }
                if kind == "rnn":
                    found["a loop over steps, as published"] = one_after_another(start, batch, step_by_step)
                    found["torch.func.vmap"] = at_once(start, batch, by_func)
                    found["torch.bmm"] = at_once(start, batch, by_bmm)
                contestants = [Contestant(name, train, error, ALLOWED, limits=limits) for name, train in found.items()]
                unit = Unit("steps/s", lambda seconds: nets * steps / seconds)
                case = f"{kind.upper()}, {nets} nets of 64 units, 24 questions, batches of 16, {count} threads"
                run("recurrent", case, contestants, options, unit)


if __name__ == "__main__":
    main()
