"""Activations that a run writes at its checkpoints: which layers, in which type, at which rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldfast.classes import Named
from worldfast.dataset import Dataset, Readout, require_readout
from worldfast.display import count
from worldfast.errors import one_of, several, whole

__all__ = ["Capture", "readout_of"]

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Capture(Named):
    """Activations that are written at each checkpoint.

    The dataset decides what is read, since it knows what its rows are about: `readout` holds options of its `readout`
    method. They belong to the run and not to the dataset, since they do not change what is learned: two runs on the
    same data may be read in two ways.

    Parameters
    ----------
    layers : sequence of int, optional
        Layers as in Hugging Face: 0 the embeddings, the last after the final norm. None means the upper half (3, 4, 5,
        6 of six layers); () writes nothing.
    dtype : {"float32", "float16"}
        Type of the stored numbers; float16 takes half the space.
    readout : mapping
        Options of `Dataset.readout`, values that JSON keeps, such as ``{"among": "index < 50"}``. Kept as pairs, sorted
        by name.

    Raises
    ------
    TypeError, ValueError
        A field does not fit; the message names it.

    Examples
    --------
    >>> wf.Capture(layers=(1, 2), dtype="float16").of(6)
    (1, 2)
    >>> wf.Capture().of(6)
    (3, 4, 5, 6)
    """

    layers: tuple[int, ...] | None = None
    dtype: str = "float32"
    readout: Any = ()

    def __post_init__(self) -> None:
        if self.layers is not None:
            layers = several("capture.layers", self.layers, "integers")
            object.__setattr__(self, "layers", tuple(whole("capture.layers", layer) for layer in layers))
        one_of("capture.dtype", self.dtype, DTYPES)
        try:
            options = {str(name): _frozen(value) for name, value in dict(self.readout).items()}
        except (TypeError, ValueError):
            raise TypeError(f"capture.readout: expected options by name, got {self.readout!r}") from None
        object.__setattr__(self, "readout", tuple(sorted(options.items())))

    def of(self, depth: int) -> tuple[int, ...]:
        """Return the layers written of a model with `depth` layers; raises IndexError for a layer that it does not
        have.
        """
        depth = whole("depth", depth, 0)
        if self.layers is None:
            return tuple(range(max(1, depth // 2), depth + 1))
        for layer in self.layers:
            if not 0 <= layer <= depth:
                raise IndexError(f"capture.layers: a model of {count(depth, 'layer')} has 0 to {depth}, got {layer}")
        return self.layers


def readout_of(data: Dataset, capture: Capture) -> Readout:
    """Return the rows at which a run on this data is read; raises what `Run.readout` does."""
    try:
        found = data.readout(**dict(capture.readout))
    except ValueError as error:
        raise ValueError(f"capture.readout: {error}") from None
    try:
        require_readout(found, data)
    except (TypeError, ValueError) as error:
        raise type(error)(f"readout of {type(data).__name__}: {error}") from None
    return found


def _frozen(value: Any) -> Any:
    """Return the value with tuples for lists, so that its owner can be hashed."""
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
