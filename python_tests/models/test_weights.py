"""Weights in folders that others wrote: in shards, as pickles, elsewhere, not there; and what they may not do."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import worldfast as wf
from worldfast.errors import DamagedError, UnsafeError
from worldfast.worlds.cities import Dataset

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An open checkpoint, its config.json alone, and its tensors."""
    out = tmp_path_factory.mktemp("out")
    model = wf.TransformerSpec(hidden=16, layers=2, heads=2, intermediate=24)
    run = wf.Run(Dataset("distance", rows=8), batch=8, checkpoints=1, model=model, capture=wf.Capture(layers=()))
    [folder] = wf.train(run, out, progress=False)
    return wf.export_huggingface(folder, out / "open"), folder


@pytest.fixture
def bare(exported, tmp_path):
    """A folder with config.json and no weights, and the weights that it lacks."""
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(exported[0] / "config.json", folder)
    return folder, load_file(exported[0] / "model.safetensors")


def parts(tensors, n=3):
    """The tensors in n groups, none of them empty."""
    names = sorted(tensors)
    return [{name: tensors[name] for name in names[i::n]} for i in range(n)]


def write_shards(folder, tensors, suffix=".safetensors"):
    weight_map = {}
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    for i, part in enumerate(parts(tensors)):
        file = f"{stem}-{i + 1:05d}-of-00003{suffix}"
        save_file(part, folder / file) if suffix == ".safetensors" else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(content), encoding="utf-8")
    return content


@pytest.mark.parametrize("way", ["shards", "bin", "bin shards", "links"])
def test_weights_of_every_kind_are_the_same(way, bare, exported, tmp_path):
    folder, tensors = bare
    if way == "shards":
        write_shards(folder, tensors)
    elif way == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif way == "bin shards":
        write_shards(folder, tensors, ".bin")
    else:  # as in the cache of Hugging Face
        (tmp_path / "blobs").mkdir()
        save_file(tensors, tmp_path / "blobs" / "abc")
        (folder / "model.safetensors").symlink_to("../blobs/abc")
    found, expected = wf.import_huggingface(folder), wf.import_huggingface(exported[0])
    assert torch.equal(found.parameters, expected.parameters) and found.spec == expected.spec


def test_a_slow_tokenizer_is_not_in_the_way(bare):
    folder, tensors = bare
    save_file(tensors, folder / "model.safetensors")
    for name in ("vocab.json", "merges.txt", "tokenizer.model"):
        (folder / name).write_text("of a slow tokenizer", encoding="utf-8")
    assert torch.equal(wf.import_huggingface(folder).weights[0].norm, tensors["model.norm.weight"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            (),
            r"has no model.safetensors, .* or pytorch_model.bin.index.json; there: 'config.json'; save the model again",
        ),
        (("model.gguf",), "there: 'config.json', 'model.gguf'; 'model.gguf' has weights which llama.cpp reads: open"),
        (("tf_model.h5", "tokenizer.json"), "'tf_model.h5' has weights of TensorFlow: open them with transformers"),
        (("adapter_config.json", "adapter_model.safetensors"), "merge it into its model"),
        (("best.pt",), "'best.pt' has weights of torch, under a name of their own"),
    ],
)
def test_no_weights(files, message, bare):
    for name in files:
        (bare[0] / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=message):
        wf.import_huggingface(bare[0])


def test_other_kinds_of_folders_are_told_apart(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="it has no config.json; there: .*'spec.json'.*it is a run's folder"):
        wf.import_huggingface(exported[1])
    with pytest.raises(FileNotFoundError, match="it has no config.json; there: nothing"):
        wf.import_huggingface(tmp_path)
    with pytest.raises(FileNotFoundError, match="no spec.json; it is a model of Hugging Face, which .*import_hugg"):
        wf.represent(exported[0])


def test_a_fifo_is_no_file_of_weights(bare):
    os.mkfifo(bare[0] / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="it has no model.safetensors"):
        wf.import_huggingface(bare[0])
    with pytest.raises(UnsafeError, match="model.safetensors' is a FIFO, expected a file"):
        wf.OpenCheckpoint(bare[0])


@pytest.mark.parametrize("name", ["../{}", "/tmp/{}", "below/{}", "..", "", "a\\{}", "a\0{}"])
def test_a_shard_is_a_file_of_the_folder(name, bare):
    folder, tensors = bare
    content = write_shards(folder, tensors)
    first = next(iter(content["weight_map"]))
    file = content["weight_map"][first]
    shutil.copy(folder / file, folder.parent / file)  # it would be found
    content["weight_map"][first] = name.format(file)
    (folder / INDEX).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnsafeError, match="may lie outside its folder: nothing was read"):
        wf.import_huggingface(folder)


def test_an_index_that_does_not_fit_its_shards(bare):
    folder, tensors = bare
    content = write_shards(folder, tensors)
    first, second = list(content["weight_map"])[0], list(content["weight_map"])[-1]

    def says(kind, message, **changed):
        (folder / INDEX).write_text(json.dumps(content | changed), encoding="utf-8")
        with pytest.raises(kind, match=message):
            wf.import_huggingface(folder)

    weights = content["weight_map"]
    says(DamagedError, f"'{first}' is in '.*', where it is not", weight_map=weights | {first: weights[second]})
    says(
        FileNotFoundError,
        "names 'more.safetensors', which is not there",
        weight_map=weights | {first: "more.safetensors"},
    )
    says(DamagedError, r"expected \*.safetensors or \*.bin", weight_map=weights | {first: "config.json"})
    says(UnsafeError, "claims 1,000,000,000,000 bytes of weights, but its", metadata={"total_size": 10**12})
    for broken in ({"weight_map": {}}, {"weight_map": [1]}, {"weight_map": {first: 5}}, {"metadata": 7}):
        says(DamagedError, f"{INDEX} is damaged", **broken)
    says(DamagedError, f"{INDEX} is damaged", metadata={"total_size": "much"})
    (folder / INDEX).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DamagedError, match=f"{INDEX} is damaged"):
        wf.import_huggingface(folder)


def test_a_weight_in_two_shards(bare):
    folder, tensors = bare
    files = list(dict.fromkeys(write_shards(folder, tensors)["weight_map"].values()))
    again = load_file(folder / files[0])
    save_file(again | load_file(folder / files[1]), folder / files[1])
    with pytest.raises(DamagedError, match=f"{re.escape(files[1])}: '.*' is in another shard too"):
        wf.import_huggingface(folder)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code(bare, tmp_path):
    folder, tensors = bare
    torch.save(tensors | {"model.norm.weight": Harmful(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeError, match="holds more than tensors, which could run code: nothing was built of it"):
        wf.import_huggingface(folder)
    assert not (tmp_path / "ran").exists()


def test_pickles_that_are_not_what_they_claim(bare):
    folder, tensors = bare
    path = folder / "pytorch_model.bin"
    name = "lm_head.weight"

    def says(kind, message):
        with pytest.raises(kind, match=message):
            wf.import_huggingface(folder)

    torch.save(tensors | {name: torch.zeros(1).expand(98, 10**12)}, path)
    says(UnsafeError, f"'{name}' claims 98,000,000,000,000 numbers, which are not in the file")
    torch.save([1, 2], path)
    says(DamagedError, "holds a list, expected weights by name")
    for wrong in (torch.zeros(98, 16, dtype=torch.int8), torch.eye(16).to_sparse(), 5, {"nested": torch.zeros(2)}):
        torch.save(tensors | {name: wrong}, path)
        says(DamagedError, f"'{name}' is no dense tensor of floating point numbers|holds more than tensors")
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    says(DamagedError, "damaged, or of a torch before 1.6")
    torch.save(tensors, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    says(DamagedError, "is damaged")
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "new", "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            new.writestr(part, old.read(part) + bytes(10_000))
    os.replace(folder / "new", path)
    says(UnsafeError, "is compressed, which torch.save does not do")


def test_quantised_weights_are_no_floats(bare):
    folder, tensors = bare
    save_file(tensors | {"model.norm.weight": torch.ones(16, dtype=torch.int8)}, folder / "model.safetensors")
    with pytest.raises(DamagedError, match="'model.norm.weight' is no dense tensor of floating point numbers"):
        wf.import_huggingface(folder)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"num_hidden_layers": 4000}, "claims 4,000 layers, but the files beside it hold"),
        ({"vocab_size": 10**12}, "claims 3[0-9,]+ weights, but the files beside it hold"),
        ({"intermediate_size": 10**6}, "claims 96,[0-9,]+ weights, but"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(claim, message, bare):
    folder, tensors = bare
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | claim), encoding="utf-8")
    with pytest.raises(UnsafeError, match=message):
        wf.import_huggingface(folder)
