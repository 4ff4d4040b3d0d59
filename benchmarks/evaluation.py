"""Greedy answers to the fourteen test sets of one model of the paper's shape, beside transformers' generate.

    python benchmarks/evaluation.py [--rows 10000] [--sample 1024] [--batch 64 256 1024] [--threads 1]

Sets are seven tasks, each on rows without Atlantis and on rows with it. Weights are as first drawn, and all
answers are limited to five tokens, of which true ones have 4.6 with their <eos>: hardly a row ends before, so
that nobody gains from rows that leave. The peer answers a sample of each set, sorted by length so that little
is padded, at several batch sizes. An error is the share of answers that are not those of float64. The limit
is the products of the tokens that differ.
"""

import numpy as np
import torch
from harness import Contestant, Unit, arguments, multiplying, run, threads

import worldfast as wf
from worldfast.decoding import share
from worldfast.evaluate import decode
from worldfast.model import Ensemble
from worldfast.tokens import BOS, EOS, PAD

SECONDS = Unit("s", lambda seconds: seconds)
LONGEST = 5  # tokens
ALLOWED = {"float32": 0.005, "bfloat16": 0.3}  # fresh weights decide narrowly: training parts the logits
CHECKED = 64  # rows of each set that are compared


def test_sets(rows):
    world = wf.World.cities().with_atlantis(n=100, seed=42)
    standard, atlantis = {"among": "region != 'Atlantis'"}, {"must_include": "region == 'Atlantis'"}
    return [
        wf.sample(world, task, rows, split="test", **cities)
        for task in wf.TASKS
        for cities in (standard, atlantis)
    ]


def huggingface(ensemble):
    """The ensemble's first member for transformers; None, which is said, where that is missing."""
    try:
        from transformers import Qwen2Config, Qwen2ForCausalLM
    except ModuleNotFoundError:
        print("transformers is not installed and left out: pip install '.[test]'")
        return None
    spec = ensemble.spec
    config = Qwen2Config(
        vocab_size=ensemble.vocabulary, hidden_size=spec.hidden, num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads, num_key_value_heads=spec.heads, intermediate_size=spec.intermediate,
        rope_theta=spec.rope_base, rms_norm_eps=spec.norm_eps, tie_word_embeddings=False,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.load_state_dict(ensemble.to_huggingface(0))
    return model


@torch.no_grad()
def generate(model, batch, rows, size):
    """Answers to the first `rows` rows, `size` at a time."""
    length, answers = batch.answer_start[:rows], [None] * rows
    for part in np.array_split(np.argsort(length), -(-rows // size)):
        longest = length[part].max()
        prompts = np.full((len(part), longest), PAD)
        for prompt, row in zip(prompts, part):
            prompt[longest - length[row] :] = batch.tokens[row, : length[row]]
        prompts = torch.from_numpy(prompts)
        found = model.generate(
            prompts, attention_mask=(prompts != PAD).long(), max_new_tokens=LONGEST, do_sample=False
        )
        for row, tokens in zip(part, found[:, longest:].tolist()):
            answers[row] = tokens[: tokens.index(EOS)] if EOS in tokens else tokens
    return answers


def main():
    parser = arguments(__doc__, repeats=3, threads=[1])
    parser.add_argument("--rows", type=int, default=10_000, help="of each test set")
    parser.add_argument("--sample", type=int, default=1024, help="rows of each that the peer answers")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[64, 256, 1024], help="the peer's batch sizes"
    )
    options = parser.parse_args()
    if options.quick:
        options.rows, options.sample, options.batch = 10, 5, [5]
    rows, sample, checked = options.rows, min(options.sample, options.rows), min(CHECKED, options.sample)
    sets, spec = test_sets(rows), wf.ModelSpec(layers=1 if options.quick else 6)

    def contestants(count):
        ensemble = Ensemble(spec, wf.tokens.Vocabulary.characters, threads=count)
        ensemble.initialise(0, seed=0)
        model = huggingface(ensemble)
        if model is not None:
            expected = [generate(model.double(), batch, checked, checked) for batch in sets]
            model.float()
        nodes = sum(
            len(part.tokens)
            for batch in sets
            for part in share(batch.tokens, batch.answer_start, ensemble._tile)
        )
        behind_embedding = spec.parameters(ensemble.vocabulary) - ensemble.vocabulary * spec.hidden
        operations = 2 * behind_embedding * (nodes + len(sets) * rows * (LONGEST - 1))

        def error(found):
            pairs = [pair for of_set in zip(found, expected) for pair in zip(*of_set)]
            return np.mean([list(answer) != exact for answer, exact in pairs])

        def ours(products):
            return [decode(ensemble, 0, batch, LONGEST, products) for batch in sets]

        def theirs(size):
            return [generate(model, batch, sample, size) for batch in sets]

        check = None if model is None else error
        found = [
            Contestant(
                f"worldfast, {products} products", lambda products=products: ours(products), check, allowed,
                limits=(multiplying(operations, getattr(torch, products)),),
            )
            for products, allowed in ALLOWED.items()
        ]  # fmt: skip
        if model is not None:
            found += [
                Contestant(
                    f"transformers generate, float32, {size} rows at a time", lambda size=size: theirs(size),
                    check, ALLOWED["float32"], times=rows / sample, limits=found[0].limits,
                )
                for size in options.batch
            ]  # fmt: skip
        return found

    for count in options.threads:
        with threads(count):
            case = f"14 test sets of {rows} rows, {spec.layers} layers of {spec.hidden}, {count} threads"
            run("evaluation", case, contestants(count), options, SECONDS)


if __name__ == "__main__":
    main()
