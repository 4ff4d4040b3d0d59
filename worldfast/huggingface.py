"""Open checkpoints: folders that Hugging Face transformers and the tools built on it open without a network.

    config.json              the shape, as of Qwen2ForCausalLM, and under "worldfast" the run, step and origin
    model.safetensors        float32, a matrix is [out, in]
    generation_config.json   greedy answers, of tokens that the head can answer
    tokenizer.json           the run's vocabulary: <bos> before a text, one token a character or city
    tokenizer_config.json    padding on the left, as generation needs it

For each layer i, D = hidden, F = intermediate, V = the vocabulary:

    model.embed_tokens.weight                                  [V, D]
    model.layers.{i}.input_layernorm.weight                    [D]
    model.layers.{i}.self_attn.{q,k,v}_proj.weight, .bias      [D, D], [D]; head h: rows from h D / heads
    model.layers.{i}.self_attn.o_proj.weight                   [D, D]
    model.layers.{i}.post_attention_layernorm.weight           [D]
    model.layers.{i}.mlp.{gate,up}_proj.weight                 [F, D]
    model.layers.{i}.mlp.down_proj.weight                      [D, F]
    model.norm.weight                                          [D]
    lm_head.weight                                             [V, D]; zeros behind the first head_size rows

Source: the Qwen2 of transformers, and the tokenizer.json of its tokenizers library.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

from worldfast import files
from worldfast.evaluate import saved
from worldfast.model import Ensemble, ModelSpec
from worldfast.tokens import BOS, EOS, PAD, UNK, Vocabulary

__all__ = ["export_huggingface", "import_huggingface"]

# fields of ModelSpec as transformers calls them; head_size is ours
CONFIG = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "rope_base": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "init_std": "initializer_range",
    "head_size": "head_size",
}
# what a ModelSpec cannot vary; transformers takes the same where one is missing
FIXED = {
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}
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
    ensemble = Ensemble(spec.model, vocabulary.size)
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


def import_huggingface(folder: str | os.PathLike, device="cpu") -> Ensemble:
    """The model of an open checkpoint as an ensemble of one, for `evaluate`, `hidden_states` and training.

    folder   as `export_huggingface` writes it, or as transformers saves that again; weights of any floating
             point dtype become float32
    device   of the ensemble

    Its vocabulary is the run's, which "worldfast" in config.json names. Where training went on elsewhere and
    the head's weights behind head_size are no longer 0, remove head_size from config.json.

    FileNotFoundError where a file is missing; ValueError or TypeError, naming file and entry, for a model
    that is not such a Qwen2 and for weights that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} is no open checkpoint: it has no {name}")
    ensemble = Ensemble(*_read_config(folder / "config.json"), device=device)
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    head, answered = tensors.get("lm_head.weight", torch.empty(0)), ensemble.outputs
    if head.shape[:1] == (ensemble.vocabulary,):
        if head[answered:].any():
            raise ValueError(
                f"{path}: 'lm_head.weight' is not 0 behind row {answered}, the head_size of config.json; "
                "without head_size there every token can be an answer"
            )
        tensors["lm_head.weight"] = head[:answered]
    try:
        ensemble.from_huggingface(0, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ensemble


# ---- the model ----


def _config(spec: ModelSpec, vocabulary: int) -> dict:
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


def _read_config(path: Path) -> tuple[ModelSpec, int]:
    """The shape and the size of the vocabulary."""
    try:
        config = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    config |= config.get("rope_parameters") or {}  # where transformers 5 keeps rope_theta
    heads = config.get("num_attention_heads")
    expected = {"model_type": "qwen2", "num_key_value_heads": heads, "rope_type": "default", **FIXED}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {config[name]!r}, expected {value!r}")
    for name in ("model_type", "num_key_value_heads", "vocab_size", *CONFIG.values()):
        if name not in config and name != "head_size":
            raise ValueError(f"{path}: {name} is missing")
    vocabulary = config["vocab_size"]
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise ValueError(f"{path}: vocab_size is {vocabulary!r}, expected a positive integer")
    try:
        spec = ModelSpec(**{ours: config.get(theirs) for ours, theirs in CONFIG.items()})
        spec.shapes(vocabulary)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None
    return spec, vocabulary


# ---- the tokenizer ----


def _tokenizer(vocabulary: Vocabulary) -> dict:
    """Byte pairs that never merge: a token a character, and cities found in the text before that.

    transformers 5 takes no more of this than vocabulary, added tokens and post-processor, since to it every
    Qwen2 has byte-level pairs. Characters of no token then vanish where Vocabulary.encode has <unk>.
    """
    bos, bytes_of = (
        vocabulary.names[BOS],
        {"add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    )
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
