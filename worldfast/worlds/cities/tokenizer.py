"""Vocabulary as a Hugging Face tokenizer."""

from __future__ import annotations

from worldfast.dataset import Tokenizer
from worldfast.worlds.cities.tokens import BOS, EOS, PAD, UNK, Vocabulary

SPECIAL = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
LONGEST = 128  # tokens that tools should expect; a row about cities has at most 57


def tokenizer_of(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer that gives <bos> and then the ids of `Vocabulary.encode`.

    It maps the texts "<eos>", "<pad>" ... to those tokens.
    """
    special = {f"{name}_id": i for name, i in SPECIAL.items()}
    return Tokenizer(special, {"tokenizer.json": _file(vocabulary), "tokenizer_config.json": _config(vocabulary)})


def _file(vocabulary: Vocabulary) -> dict:
    """Return tokenizer.json: byte pairs that never merge, so one token for each character; cities are found in the text
    first.

    transformers 5 takes only vocabulary, added tokens and post-processor from this, since it assumes byte-level pairs
    for every Qwen2. Characters without a token then vanish, whereas Vocabulary.encode gives <unk>.
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


def _config(vocabulary: Vocabulary) -> dict:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        **{name: vocabulary.names[i] for name, i in SPECIAL.items()},
        "unk_token": vocabulary.names[UNK],
        "model_max_length": LONGEST,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
