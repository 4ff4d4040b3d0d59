"""Open checkpoints against transformers and tools built on it, which open them as anyone would, and back."""

import json
import os
import re
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import oracle
import pytest
import torch
import warm
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import worldfast as wf
from worldfast import cli, files
from worldfast.errors import DamagedError
from worldfast.rows import Rows
from worldfast.training import load
from worldfast.worlds.cities import Dataset
from worldfast.worlds.cities.evaluate import decode, evaluate
from worldfast.worlds.cities.tokens import Vocabulary

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"
NONE = wf.Capture(layers=())
SHAPE = dict(hidden=48, layers=3, heads=2, intermediate=40, rope_base=300.0, init_std=0.2)
RUNS = {
    "character": wf.Run(
        Dataset(tasks=("distance", "inside"), rows=400),
        batch=80,
        checkpoints=2,
        learning_rate=0.003,
        warmup=2,
        model=wf.TransformerSpec(**SHAPE, norm_eps=1e-05),
        capture=NONE,
    ),
    "entity": wf.Run(
        Dataset(tasks="distance", rows=400, loss="answer", vocabulary="entity"),
        batch=80,
        checkpoints=2,
        learning_rate=0.003,
        warmup=2,
        model=wf.TransformerSpec(**SHAPE, outputs=98),
        capture=NONE,
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each run's folder."""
    out = tmp_path_factory.mktemp("runs")
    return {name: wf.train([run], out, progress=False)[0] for name, run in RUNS.items()}


@pytest.fixture(scope="module")
def opened(runs, tmp_path_factory):
    """Each run's open checkpoint."""
    out = tmp_path_factory.mktemp("open")
    return {name: wf.export_huggingface(folder, out / "new" / name) for name, folder in runs.items()}


@pytest.fixture
def copy(opened, tmp_path):
    """An open checkpoint to spoil."""
    return Path(shutil.copytree(opened["entity"], tmp_path / "copy"))


def model_of(folder, dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).to(dtype).eval()


def tokenizer_of(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def rows_of(vocabulary, n=20):
    """Rows of the seven tasks, each int64 [1, tokens]."""
    batch = wf.sample(wf.World.cities(), oracle.TASKS, n=n, vocabulary=vocabulary)
    rows = (row[:length].astype(np.int64) for row, length in zip(batch.tokens, batch.length))
    return [torch.from_numpy(row)[None] for row in rows]


def read_all(ensemble, row):
    """Logits and hidden states at every position of one row."""
    n = row.shape[1]
    rows = Rows(row[0].int(), torch.tensor([0, n], dtype=torch.int32), torch.arange(n))
    return ensemble.outputs(rows, 0), torch.stack(ensemble.states(rows, 0, range(ensemble.spec.layers + 1)))


@pytest.mark.parametrize("name", RUNS)
def test_logits_and_hidden_states_are_those_of_transformers(name, runs, opened):
    """No further from float64 than twice what transformers in float32 is, and 1e-6 of the largest."""
    _, ensemble = load(runs[name])
    plain, exact = (model_of(opened[name], dtype) for dtype in (torch.float32, torch.float64))
    assert type(plain).__name__ == "Qwen2ForCausalLM"
    for row in rows_of(name):
        with torch.no_grad():
            near, want = (theirs(row, output_hidden_states=True) for theirs in (plain, exact))
        near, want = ((out.logits[0], torch.cat(out.hidden_states)) for out in (near, want))
        assert not want[0][:, ensemble.shape.outputs :].any()
        for got, a, b in zip(read_all(ensemble, row), near, want):
            a, b = a[..., : got.shape[-1]], b[..., : got.shape[-1]]
            assert (got - b).abs().max() < 2 * (a - b).abs().max() + 1e-6 * b.abs().max()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("tool", ["nnsight", "transformer_lens"])
def test_tools_find_the_same_hidden_states(name, tool, runs, tmp_path):
    """By the code of docs/checkpoints.md, as it stands there."""
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install '.[interpretability]'")
    opening, *others = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    [reading] = [code for code in others if f"import {tool}\n" in code or f"from {tool} import" in code]
    opening = opening.replace("runs/NAME-ID", str(runs[name])).replace("open/NAME", str(tmp_path / "open"))
    page = {}
    for code in (opening, reading):
        file = tmp_path / "code.py"  # nnsight reads the code that it runs
        file.write_text(code)
        exec(compile(code, file, "exec"), page)
    _, states = read_all(load(runs[name])[1], page["prompt"]["input_ids"])
    torch.testing.assert_close(torch.cat(list(page["states"])), states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_token_ids(name, opened):
    tokenizer, world = tokenizer_of(opened[name]), wf.World.cities()
    vocabulary = Vocabulary(name, world)
    assert len(tokenizer) == vocabulary.size
    for task in oracle.TASKS:
        batch = wf.sample(world, task, n=40, vocabulary=name)
        texts = [batch.text(i) for i in range(40)]
        for text, tokens, length in zip(texts, batch.tokens, batch.length):
            row = tokens[:length].tolist()
            assert tokenizer(text).input_ids == row[:-1]
            assert tokenizer(text + "<eos>").input_ids == row
            assert tokenizer(text, add_special_tokens=False).input_ids == vocabulary.encode(text)
            assert tokenizer.decode(row, skip_special_tokens=True) == text
            assert tokenizer.decode(row) == f"<bos>{text}<eos>"
        padded = tokenizer(texts, padding=True, return_tensors="np")
        assert padded.input_ids[:, -1].all()  # padded on the left, with 0, which the mask leaves out
        assert np.array_equal(padded.input_ids != 0, padded.attention_mask)
    used = set(world.city_id.tolist())
    stranger = next(f"c_{i:04d}" for i in range(10_000) if i not in used)
    known, characters = f"c_{world.city_id[7]:04d}", "".join(vocabulary.names[4:98])
    for text in ("", stranger, f"c_{stranger}c_", f"{known}8", f"c_{known}{known}", characters):
        assert tokenizer(text).input_ids[1:] == vocabulary.encode(text)


@pytest.mark.parametrize("name", RUNS)
def test_generate_answers_as_decode_does(name, runs, opened):
    """A row alone, and rows of different lengths padded together."""
    _, ensemble = load(runs[name])
    model, tokenizer = model_of(opened[name]), tokenizer_of(opened[name])
    batch = wf.sample(wf.World.cities(), oracle.TASKS, n=10, vocabulary=name)
    prompts = [batch.text(i).partition("=")[0] + "=" for i in range(10)]
    answers = [batch.vocabulary.decode(answer) for answer in decode(ensemble, 0, batch)]
    for rows in (slice(0, 1), slice(1, 2), slice(0, 10)):
        inputs = tokenizer(prompts[rows], padding=True, return_tensors="pt")
        generated = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        assert tokenizer.batch_decode(generated, skip_special_tokens=True) == answers[rows]


def test_generate_answers_what_the_head_can(opened):
    """Also where all that it can has a logit below 0, which is that of a city."""
    model, prompt = model_of(opened["entity"]), rows_of("entity", n=1)[0][:, :-3]
    with torch.no_grad():
        final = model.model(prompt).last_hidden_state[0, -1]
        model.lm_head.weight[:98] = -final
        model.lm_head.weight[50] = -final / 2
    assert model.generate(prompt, max_new_tokens=1)[0, -1] == 50


@pytest.mark.parametrize("name", RUNS)
def test_import_undoes_export(name, runs, opened, tmp_path):
    """Also of what transformers saves again; and the model scores as the run's own does."""
    run, ensemble = load(runs[name])
    model_of(opened[name]).save_pretrained(tmp_path)
    for folder in (opened[name], tmp_path, str(tmp_path)):
        ours = wf.import_huggingface(folder)
        assert (ours.spec, ours.shape, ours.members) == (run.model, ensemble.shape, 1)
        assert torch.equal(ours.parameters, ensemble.parameters)
    world = wf.World.cities()
    scores = [evaluate(model, 0, world, "distance", n=20, vocabulary=name) for model in (ours, ensemble)]
    assert scores[0] == scores[1]


def test_shards_as_transformers_writes_them(opened, tmp_path):
    model_of(opened["character"]).save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists() and not (tmp_path / "model.safetensors").exists()
    found, expected = (wf.import_huggingface(folder).parameters for folder in (tmp_path, opened["character"]))
    assert torch.equal(found, expected)


def test_a_head_that_elsewhere_learned_more(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"][98, 0] = 1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="not 0 after row 98, the `outputs` of config.json"):
        wf.import_huggingface(copy)
    change(copy, outputs=None)
    assert torch.equal(wf.import_huggingface(copy).weights[0].head, tensors["lm_head.weight"])


def test_what_the_folder_says(runs, opened):
    for name, run in RUNS.items():
        about = json.loads((opened[name] / "config.json").read_text())["worldfast"]
        assert wf.Run.from_json(about["run"]) == run and about["id"] == run.id and about["step"] == run.steps
        assert about["origin"] == files.origin("cpu")


def expand(name):
    """The names that one with {i} or {a,b} stands for."""
    found = re.search(r"\{([^}]*)\}", name)
    if not found:
        return [name]
    options = range(SHAPE["layers"]) if found[1] == "i" else found[1].split(",")
    return [full for option in options for full in expand(name.replace(found[0], str(option), 1))]


def test_tensors_are_as_documented(opened):
    """Names and shapes in the table of docs/checkpoints.md are those in the file."""
    text = DOCUMENT.read_text()
    sizes = dict(D=SHAPE["hidden"], F=SHAPE["intermediate"], V=98 + 5075)
    rows = re.findall(r"^\| `([^`]*)` \| \[([DFV, ]+)\] \|", text, re.MULTILINE)
    documented = {name: [sizes[x] for x in shape.split(", ")] for row, shape in rows for name in expand(row)}
    tensors = load_file(opened["entity"] / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == documented
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_an_export_has_the_same_bytes_whenever_it_is_made(runs, opened, tmp_path):
    """Names of the metadata too, which the library of safetensors writes in an order of chance."""
    path = opened["character"] / "model.safetensors"
    for i in range(6):
        again = wf.export_huggingface(runs["character"], tmp_path / str(i))
        assert (again / path.name).read_bytes() == path.read_bytes()
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_a_step(runs, tmp_path):
    """Of the two checkpoints that a run keeps, either; another is an error that lists them."""
    folder, steps = runs["character"], RUNS["character"].checkpoint_steps[-2:]
    tensors = []
    for step in steps:
        wf.export_huggingface(folder, tmp_path / str(step), step)
        assert json.loads((tmp_path / str(step) / "config.json").read_text())["worldfast"]["step"] == step
        tensors.append(load_file(tmp_path / str(step) / "model.safetensors")["model.norm.weight"])
    assert not torch.equal(*tensors)
    with pytest.raises(FileNotFoundError, match=f"of step 3; there: step-{steps[0]:08d}, step-"):
        wf.export_huggingface(folder, tmp_path / "3", 3)
    for wrong in ("5", 5.0, True):
        with pytest.raises(TypeError, match="step: expected an integer, got"):
            wf.export_huggingface(folder, tmp_path / "3", wrong)
    assert not (tmp_path / "3").exists()


def test_a_model_without_positions_is_no_qwen2(tmp_path):
    model = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=16, rope_base=None)
    run = wf.Run(Dataset("distance", rows=8), batch=8, checkpoints=1, model=model, capture=wf.Capture(layers=()))
    [folder] = wf.train(run, tmp_path, progress=False)
    with pytest.raises(ValueError, match="run: a model without positions"):
        wf.export_huggingface(folder, tmp_path / "open")
    assert not (tmp_path / "open").exists()


def test_export_needs_neither_transformers_nor_tokenizers(runs, tmp_path):
    code = """if True:
        import sys, worldfast
        worldfast.export_huggingface(*sys.argv[1:])
        print([name for name in ("transformers", "tokenizers") if name in sys.modules])
    """
    assert warm.python("-c", code, runs["entity"], tmp_path / "open", check=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------- bad input


def test_no_run_to_export(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run's folder: it has no spec.json"):
        wf.export_huggingface(tmp_path, tmp_path / "open")
    shutil.copy(runs["entity"] / "spec.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        wf.export_huggingface(tmp_path, tmp_path / "open")
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_folder_with_something_in_it_stays_as_it_is(runs, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "a.txt", tmp_path / "a.txt" / "below"):
        with pytest.raises(FileExistsError, match="folder: "):
            wf.export_huggingface(runs["entity"], taken)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "mine")]
    (tmp_path / "empty").mkdir()
    assert (wf.export_huggingface(runs["entity"], tmp_path / "empty") / "config.json").exists()


def test_a_folder_is_whole_or_not_there(runs, tmp_path, monkeypatch):
    write = files.write_whole

    def full(path, *content):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device", str(path))
        return write(path, *content)

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        wf.export_huggingface(runs["entity"], tmp_path / "open")
    assert not list(tmp_path.iterdir())


def change(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "values,message",
    [
        (dict(model_type="llama"), "model_type is 'llama', expected 'qwen2'"),
        (dict(num_key_value_heads=1), "num_key_value_heads is 1, expected 2"),
        (dict(hidden_act="gelu"), "hidden_act is 'gelu', expected 'silu'"),
        (dict(tie_word_embeddings=True), "tie_word_embeddings is True, expected False"),
        (dict(use_sliding_window=True), "use_sliding_window is True"),
        (dict(rope_scaling={"type": "yarn"}), "rope_scaling is {'type': 'yarn'}, expected None"),
        (dict(rope_parameters={"rope_type": "linear"}), "rope_type is 'linear', expected 'default'"),
        (dict(num_attention_heads=5, num_key_value_heads=5), "multiple of 8, got 48 / 5"),
        (dict(vocab_size="98"), "vocab_size is '98', expected a positive integer"),
        (dict(vocab_size=97), "outputs: expected at most the vocabulary's 97, got 98"),
        (dict(rms_norm_eps=0), "model.norm_eps: expected a number above 0, got 0"),
        (dict(vocab_size=100), r"'model.embed_tokens.weight' has shape \[5173, 48\], expected \[100, 48\]"),
        (dict(intermediate_size=48), r"gate_proj.weight' has shape \[40, 48\], expected \[48, 48\]"),
        (dict(num_hidden_layers=2), "'model.layers.2.* is no weight of this model"),
        (dict(num_hidden_layers=4), "'model.layers.3.* is missing"),
    ],
)
def test_a_config_of_another_model(values, message, copy):
    change(copy, **values)
    with pytest.raises(ValueError, match=f"{copy}.*{message}"):
        wf.import_huggingface(copy)


def test_a_config_with_a_gap(copy):
    whole = (copy / "config.json").read_text()
    for name in ("model_type", "num_key_value_heads", "vocab_size", "hidden_size", "rope_theta"):
        (copy / "config.json").write_text(whole.replace(f'"{name}"', '"other"'))
        with pytest.raises(ValueError, match=f"{name} is missing|{name} is None"):
            wf.import_huggingface(copy)


def test_files_that_are_damaged_or_not_there(copy):
    for name in ("model.safetensors", "config.json"):
        content = (copy / name).read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"[1]"):
            (copy / name).write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{copy / name} is damaged"):
                wf.import_huggingface(copy)
        (copy / name).write_bytes(content)
    (copy / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{copy / 'config.json'} is damaged: expected a JSON object"):
        wf.import_huggingface(copy)
    (copy / "config.json").write_bytes(content)
    for name in ("model.safetensors", "config.json"):
        (copy / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"is no open checkpoint: it has no {name}"):
            wf.import_huggingface(copy)


def test_command(runs, tmp_path, capsys):
    folder = shutil.copytree(runs["entity"], tmp_path / "run")
    assert cli.main(["export", str(folder), "--to", "hf"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "hf")
    assert torch.equal(wf.import_huggingface(folder / "hf").parameters, load(folder)[1].parameters)
    assert cli.main(["export", str(folder), "--to", "hff"]) == 1
    assert "unknown format 'hff': did you mean 'hf'? known: hf" in capsys.readouterr().err
    assert cli.main(["export", str(folder), "--to", "hf"]) == 1
    assert "expected a new or an empty folder" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path), "--to", "hf", "--out", str(tmp_path / "open")]) == 1
    assert "not a run's folder" in capsys.readouterr().err


def test_a_flipped_bit_in_what_was_exported(copy):
    """In weights, their header and config.json: named, or without effect on the model."""
    expected, random = wf.import_huggingface(copy), np.random.default_rng(0)
    named = 0
    for name, places in (("model.safetensors", 40), ("config.json", 40)):
        path = copy / name
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little") if name == "model.safetensors" else len(whole)
        for place in (*random.choice(header, places, False), *random.choice(len(whole), places, False)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.integers(8))]) + whole[place + 1 :])
            try:
                found = wf.import_huggingface(copy)
            except (ValueError, TypeError) as error:
                assert str(copy) in str(error)
                named += 1
            else:
                assert found.spec == expected.spec and torch.equal(found.parameters, expected.parameters)
        path.write_bytes(whole)
    assert named > 60


def test_what_decides_the_numbers_is_checked_against_the_weights(copy):
    for values in (dict(rope_theta=10001.0), dict(rms_norm_eps=2e-6), dict(outputs=None)):
        whole = (copy / "config.json").read_text()
        change(copy, **values)
        with pytest.raises(
            DamagedError,
            match=f"^{copy}/config.json and {copy}/model.safetensors .*: {next(iter(values))} is .*were exported with",
        ):
            wf.import_huggingface(copy)
        (copy / "config.json").write_text(whole)


@pytest.mark.parametrize("said", ["3", "[]", '"a"', '{"config": 3}', "[" * 100_000])
def test_what_weights_say_of_themselves_is_of_another_kind(copy, said):
    path = copy / "model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "worldfast": said})
    with pytest.raises(DamagedError, match="model.safetensors is damaged: its metadata are not those of an export"):
        wf.import_huggingface(copy)


def test_a_config_that_says_of_worldfast_something_else(copy):
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"worldfast": [3]}))
    with pytest.raises(DamagedError, match="do not belong together: id is None"):
        wf.import_huggingface(copy)


def test_weights_of_another_run_beside_a_config_are_noticed(copy):
    about = json.loads((copy / "config.json").read_text())["worldfast"]
    for name, other in (("id", "0123456789ab"), ("step", about["step"] + 1)):
        change(copy, worldfast=about | {name: other})
        with pytest.raises(
            DamagedError, match=f"{copy}/model.safetensors do not .* {name} is .*exported with {about[name]!r}"
        ):
            wf.import_huggingface(copy)


def test_of_weights_that_others_wrote_nothing_is_claimed(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] += 1
    for metadata in ({"format": "pt"}, None):
        save_file(tensors, copy / "model.safetensors", metadata)
        assert torch.equal(wf.import_huggingface(copy).weights[0].norm, tensors["model.norm.weight"])
