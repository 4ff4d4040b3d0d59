"""Open checkpoints: folders that Hugging Face transformers and the tools built on it open without a network.

Files::

    config.json              shape, as of Qwen2ForCausalLM, and under "worldfast" the run, step and origin
    model.safetensors        float32, a matrix is [out, in]; its metadata has "worldfast": SHA-256 of the tensors, and
                             the entries of config.json that decide what they compute
    generation_config.json   greedy answers, from the tokens that the head can answer
    tokenizer.json           the run's vocabulary: <bos> before a text, one token for each character or name
    tokenizer_config.json    padding on the left, as generation needs it

Tensors, for each layer i, D = hidden, F = intermediate, V = the vocabulary::

    model.embed_tokens.weight                                  [V, D]
    model.layers.{i}.input_layernorm.weight                    [D]
    model.layers.{i}.self_attn.{q,k,v}_proj.weight, .bias      [D, D], [D]; head h: rows from h D / heads
    model.layers.{i}.self_attn.o_proj.weight                   [D, D]
    model.layers.{i}.post_attention_layernorm.weight           [D]
    model.layers.{i}.mlp.{gate,up}_proj.weight                 [F, D]
    model.layers.{i}.mlp.down_proj.weight                      [D, F]
    model.norm.weight                                          [D]
    lm_head.weight                                             [V, D]; zeros after the first `outputs` rows

Source: the Qwen2 of transformers, and the tokenizer.json of its tokenizers library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldfast import files
from worldfast.display import count
from worldfast.errors import DamagedError, UnsafeError, as_path
from worldfast.models.transformer import Transformer, TransformerSpec
from worldfast.models.weights import LARGEST_INDEX, read_weights, require_files
from worldfast.rows import Shape

LONGEST = 128  # tokens: lower bound on what tools should allow for

# fields of TransformerSpec by their names in transformers; outputs is ours
CONFIG = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "rope_base": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "init_std": "initializer_range",
    "outputs": "outputs",
}
# settings that a TransformerSpec cannot vary; they are the defaults of transformers
FIXED = {"hidden_act": "silu", "tie_word_embeddings": False, "use_sliding_window": False, "rope_scaling": None}


def import_huggingface(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Transformer:
    """Read the model of an open checkpoint as an ensemble of one, for evaluation, reading and training.

    What `export_huggingface` wrote is checked: weights and shape are those of the export. Of a file that transformers
    or anyone else wrote there is no digest, and nothing is claimed of its bytes but that they can be read.

    Weights may stand in one model.safetensors, in shards, or in pytorch_model.bin, of which tensors alone are taken.
    Tokenizers are not read, whatever kind the folder has, or none: rows of tokens are those of the run's dataset.

    Its vocabulary is that of the run, which "worldfast" in config.json names. If training continued elsewhere and the
    head's weights after the first `outputs` are no longer 0, remove `outputs` from config.json.

    Parameters
    ----------
    folder : path
        Folder that `export_huggingface` wrote, or transformers saved again; weights of any floating point dtype become
        float32.
    device : str or torch.device
        Device of the ensemble.

    Returns
    -------
    Transformer

    Raises
    ------
    FileNotFoundError
        A file is missing; the message names those that are there.
    DamagedError
        Weights or config.json are not what was exported, or cannot be read.
    UnsafeError
        A shard lies outside the folder, a .bin holds more than tensors, or sizes are claimed that no bytes are there
        for.
    TypeError, ValueError
        The model is not such a Qwen2, or weights do not fit; the message names file and entry.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
    >>> data = cities.Dataset("distance", rows=64)
    >>> run = wf.Run(data, model=spec, batch=32, checkpoints=1, capture=wf.Capture(layers=()))
    >>> [folder] = wf.train(run, "runs", device="cpu", progress=False)
    >>> ensemble = wf.import_huggingface(wf.export_huggingface(folder, "open/distance"))
    >>> ensemble.spec.hidden, ensemble.members
    (16, 1)
    """
    folder = as_path("folder", folder)
    require_files(folder)
    spec, shape = _read_config(folder / "config.json")
    path, tensors, stated = read_weights(folder)
    _require_held(folder / "config.json", spec, shape, tensors)
    ensemble = spec.build(shape, device=device)
    if stated is not None and _digest(tensors) != stated.get("sha256"):
        raise DamagedError(f"{path} is damaged: its weights are not those that were exported")
    head, answered = (
        tensors.get("lm_head.weight", torch.empty(0, dtype=torch.float32, device="cpu")),
        ensemble.shape.outputs,
    )
    if head.shape[:1] == (shape.inputs,):
        if head[answered:].any():
            raise ValueError(
                f"{path}: 'lm_head.weight' is not 0 after row {answered}, the `outputs` of config.json; "
                "without it there every token can be an answer"
            )
        tensors["lm_head.weight"] = head[:answered]
    try:
        ensemble.from_huggingface(0, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if stated is not None:
        _require_exported(folder / "config.json", path, stated.get("config", {}))
    return ensemble


def huggingface_config(spec: TransformerSpec, vocabulary: int, longest: int) -> dict:
    """Return what config.json says of a model.

    Parameters
    ----------
    spec : TransformerSpec
    vocabulary : int
        Tokens that it reads.
    longest : int
        Tokens of the longest row.

    Raises
    ------
    ValueError
        The model has no positions (`rope_base=None`), which Qwen2 cannot express.
    """
    if spec.rope_base is None:
        raise ValueError("run: a model without positions (rope_base=None) is no Qwen2 that transformers could open")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        **{theirs: getattr(spec, ours) for ours, theirs in CONFIG.items()},
        "num_key_value_heads": spec.heads,
        "max_position_embeddings": max(LONGEST, longest),
        **FIXED,
    }


def export_metadata(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of an exported model.safetensors, by which `import_huggingface` knows it again."""
    return {"format": "pt", "worldfast": json.dumps({"sha256": _digest(tensors), "config": _computes(config)})}


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def _computes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of config.json that decide what the weights compute, and whose they are."""
    names = ("model_type", "vocab_size", "num_key_value_heads", *CONFIG.values(), *FIXED)
    about = config.get("worldfast")
    about = about if isinstance(about, dict) else {}
    return {name: config.get(name) for name in names} | {"id": about.get("id"), "step": about.get("step")}


def _require_exported(path: Path, weights: Path, stated: Mapping[str, Any]) -> None:
    """Raise a DamagedError that names both files if config.json says other than what its weights were exported with."""
    config = _computes(json.loads(files.read_whole(path, LARGEST_INDEX, files.followed).decode("utf-8")))
    for name, value in stated.items():
        if config.get(name) != value:
            raise DamagedError(
                f"{path} and {weights} do not belong together: {name} is {config.get(name)!r}, but the weights were "
                f"exported with {value!r}: put back the file that was changed"
            )


def _require_held(path: Path, spec: TransformerSpec, shape: Shape, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise an UnsafeError if config.json claims a model for which more memory would be taken than its weights need."""
    held = sum(map(torch.Tensor.numel, tensors.values()))
    if spec.layers > len(tensors):
        said = f"{path} claims {count(spec.layers, 'layer')}"
        raise UnsafeError(f"{said}, but the files beside it hold {count(len(tensors), 'tensor')}")
    if (claimed := spec.parameters(shape)) > 4 * held + 1_000_000:
        raise UnsafeError(f"{path} claims {claimed:,} weights, but the files beside it hold {held:,}")


def _read_config(path: Path) -> tuple[TransformerSpec, Shape]:
    """Return the spec and the shape of its data."""
    raw = files.read_whole(path, LARGEST_INDEX, files.followed)
    try:
        config = dict(json.loads(raw.decode("utf-8")))
    except (RecursionError, TypeError, ValueError):
        raise DamagedError(f"{path} is damaged: expected a JSON object in UTF-8") from None
    config |= config.get("rope_parameters") or {}  # where transformers 5 keeps rope_theta
    heads = config.get("num_attention_heads")
    expected = {"model_type": "qwen2", "num_key_value_heads": heads, "rope_type": "default", **FIXED}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {config[name]!r}, expected {value!r}")
    for name in ("model_type", "num_key_value_heads", "vocab_size", *CONFIG.values()):
        if name not in config and name != "outputs":
            raise ValueError(f"{path}: {name} is missing")
    vocabulary = config["vocab_size"]
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise ValueError(f"{path}: vocab_size is {vocabulary!r}, expected a positive integer")
    try:
        spec = TransformerSpec(**{ours: config.get(theirs) for ours, theirs in CONFIG.items()})
        shape = Shape(vocabulary, vocabulary)
        spec.of(shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None
    return spec, shape
