"""A run's checkpoint written as a folder that Hugging Face transformers opens: worldfast.models.huggingface says what
stands in it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

from worldfast import files
from worldfast.models import TransformerSpec
from worldfast.models.huggingface import CONFIG, FIXED
from worldfast.training.folder import saved
from worldfast.worlds.cities.tokens import BOS, EOS, PAD, UNK, Vocabulary

__all__ = ["export_huggingface"]

SPECIAL = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
SPECIAL_IDS = {f"{name}_id": i for name, i in SPECIAL.items()}
LONGEST, LONGEST_ANSWER = 128, 16  # tokens that tools should expect; a row about cities has at most 57


def export_huggingface(run: str | os.PathLike, folder: str | os.PathLike, step: int | None = None) -> Path:
    """Writes a run's model as a folder that AutoModelForCausalLM and AutoTokenizer open. Returns the folder.

    run      a run's folder
    folder   made here with those above it; whole or not there
    step     that of the checkpoint, one of the two that a run keeps; None: the newest

    Logits and hidden states are those of the run's Ensemble. With a head for part of the vocabulary, logits
    of the other tokens are 0, and generation_config.json keeps them from being answers. The tokenizer gives
    <bos> and then the ids of Vocabulary.encode, but that it reads "<eos>" and the like as those tokens.

    FileNotFoundError where `run` is no run's folder or has no such checkpoint, FileExistsError where `folder`
    is there and not empty, TypeError where `step` is no integer.
    """
    from safetensors.torch import save

    if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
        raise TypeError(f"step: expected an integer or None, got {step!r}")
    spec, found = saved(run, step)
    folder = Path(folder).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"folder: '{folder}' is there already; expected a new or an empty folder")
    vocabulary = spec.stream().vocabulary
    ensemble = spec.model.build(spec.shape)
    ensemble.parameters[0].copy_(found.tensors["parameters"])
    tensors = ensemble.to_huggingface(0)
    head = tensors["lm_head.weight"]  # [H, D]
    tensors["lm_head.weight"] = torch.cat([head, head.new_zeros(vocabulary.size - len(head), head.shape[1])])
    about = {"id": spec.id, "run": spec.to_json(), "step": found.step, "origin": files.origin("cpu")}
    contents = {
        "config.json": _config(spec.model, vocabulary.size) | {"worldfast": about},
        "generation_config.json": _generation_config(len(head), vocabulary.size),
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": _tokenizer_config(vocabulary),
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


def _config(spec: TransformerSpec, vocabulary: int) -> dict:
    if spec.rope_base is None:
        raise ValueError("run: a model without positions (rope_base=None) is no Qwen2 that transformers could open")
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        **{theirs: getattr(spec, ours) for ours, theirs in CONFIG.items()},
        "num_key_value_heads": spec.heads,
        "max_position_embeddings": LONGEST,
        **FIXED,
        **SPECIAL_IDS,
    }


def _generation_config(outputs: int, vocabulary: int) -> dict:
    content = {"do_sample": False, "max_new_tokens": LONGEST_ANSWER, **SPECIAL_IDS}
    return content | ({"suppress_tokens": list(range(outputs, vocabulary))} if outputs < vocabulary else {})


# ---- the tokenizer ----


def _tokenizer(vocabulary: Vocabulary) -> dict:
    """Byte pairs that never merge: a token a character, and cities found in the text before that.

    transformers 5 takes no more of this than vocabulary, added tokens and post-processor, since to it every
    Qwen2 has byte-level pairs. Characters of no token then vanish where Vocabulary.encode has <unk>.
    """
    bos, bytes_of = (vocabulary.names[BOS], {"add_prefix_space": False, "trim_offsets": True, "use_regex": False})
    special = (PAD, UNK, BOS, EOS)
    whole = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": vocabulary.names[i], "special": i in special, **whole}
            for i in (*special, *range(Vocabulary.characters, vocabulary.size))
        ],
        "pre_tokenizer": {"type": "ByteLevel", **bytes_of},
        "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(vocabulary.names)}, "merges": []},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}},
        },
        "decoder": {"type": "ByteLevel", **bytes_of},
    }


def _tokenizer_config(vocabulary: Vocabulary) -> dict:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        **{name: vocabulary.names[i] for name, i in SPECIAL.items()},
        "unk_token": vocabulary.names[UNK],
        "model_max_length": LONGEST,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
