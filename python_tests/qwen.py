"""transformers' Qwen2 with the weights of a member: the plain reference of transformers of every engine."""

import pytest
import torch


def qwen2(ensemble, member=0, dtype=torch.float32, **more):
    """Return the model of a member; `more` are further entries of its configuration."""
    transformers = pytest.importorskip("transformers")
    spec, vocabulary, tensors = ensemble.spec, ensemble.shape.inputs, ensemble.to_huggingface(member)
    config = transformers.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        intermediate_size=spec.intermediate,
        rms_norm_eps=spec.norm_eps,
        rope_theta=spec.rope_base or 1.0,
        tie_word_embeddings=False,
        attn_implementation="eager",
        **more,
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": spec.rope_base or 1.0}
    theirs = transformers.Qwen2ForCausalLM(config).to(dtype).eval()
    head = tensors["lm_head.weight"]
    below = torch.zeros(vocabulary - len(head), spec.hidden)  # tokens that our head cannot answer
    theirs.load_state_dict(tensors | {"lm_head.weight": torch.cat([head, below])})
    return theirs
