"""A run's checkpoint written as a folder that Hugging Face transformers opens: worldfast.models.huggingface says what
stands in it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

from worldfast import files
from worldfast.dataset import Tokenizer
from worldfast.folder import saved
from worldfast.models import TransformerSpec
from worldfast.models.huggingface import CONFIG, FIXED

__all__ = ["export_huggingface"]

LONGEST, LONGEST_ANSWER = 128, 16  # tokens that tools should expect at least


def export_huggingface(run: str | os.PathLike, folder: str | os.PathLike, step: int | None = None) -> Path:
    """Writes a run's model as a folder that AutoModelForCausalLM and AutoTokenizer open. Returns the folder.

    run      a run's folder
    folder   made here with those above it; whole or not there
    step     that of the checkpoint, one of the two that a run keeps; None: the newest

    Logits and hidden states are those of the run's Ensemble. With a head for part of the vocabulary, logits
    of the other tokens are 0, and generation_config.json keeps them from being answers. The tokenizer is that of
    the run's dataset, where it has one.

    FileNotFoundError where `run` is no run's folder or has no such checkpoint, FileExistsError where `folder`
    is there and not empty, TypeError where `step` is no integer or the model is no transformer of tokens.
    """
    from safetensors.torch import save

    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise TypeError(f"step: expected an integer or None, got {step!r}")
    spec, found = saved(run, step)
    if not isinstance(spec.model, TransformerSpec) or spec.shape.vectors:
        reads = "vectors" if spec.shape.vectors else "tokens"
        raise TypeError(
            f"run: {spec.name!r} is a {type(spec.model).__name__} that reads {reads}; exported can be a "
            "TransformerSpec that reads tokens, as transformers has it as Qwen2. Its parameters by their names are "
            "those of `worldfast.training.load(folder)[1]`"
        )
    folder = Path(folder).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"folder: '{folder}' is there already; expected a new or an empty folder")
    size, tokenizer = spec.shape.inputs, spec.data.tokenizer() or Tokenizer({}, {})
    ensemble = spec.model.build(spec.shape)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    tensors = ensemble.to_huggingface(0)
    head = tensors["lm_head.weight"]  # [H, D]
    tensors["lm_head.weight"] = torch.cat([head, head.new_zeros(size - len(head), head.shape[1])])
    about = {"id": spec.id, "run": spec.to_json(), "step": found.step, "origin": files.origin("cpu")}
    contents = {
        "config.json": _config(spec.model, size, spec.data.longest) | tokenizer.special | {"worldfast": about},
        "generation_config.json": _generation_config(len(head), size) | tokenizer.special,
        **tokenizer.files,
    }
    above = files.folder(folder.parent, "folder")
    with tempfile.TemporaryDirectory(prefix=".", dir=above) as beside:
        whole = files.folder(Path(beside) / folder.name, "folder")
        for name, content in contents.items():
            files.write_whole(whole / name, json.dumps(content, indent=1).encode())
        files.write_whole(whole / "model.safetensors", save(tensors, {"format": "pt"}))
        whole.replace(folder)
    return folder


# ---- the model ----


def _config(spec: TransformerSpec, vocabulary: int, longest: int) -> dict:
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


def _generation_config(outputs: int, vocabulary: int) -> dict:
    content = {"do_sample": False, "max_new_tokens": LONGEST_ANSWER}
    return content | ({"suppress_tokens": list(range(outputs, vocabulary))} if outputs < vocabulary else {})
