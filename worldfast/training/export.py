"""Export of a run's checkpoint as a folder for Hugging Face transformers, or of all as one such folder each;
worldfast.models.huggingface describes the format.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from worldfast import checkpoint, files
from worldfast.checkpoint import Checkpoint
from worldfast.dataset import Tokenizer
from worldfast.display import count
from worldfast.errors import as_path, whole
from worldfast.folder import saved, steps_of
from worldfast.models import TransformerSpec, export_metadata, huggingface_config
from worldfast.run import Run

LONGEST_ANSWER = 16  # tokens: lower bound on what tools should allow for


ALL = "all"


def export_huggingface(run: str | os.PathLike, folder: str | os.PathLike, step: int | str | None = None) -> Path:
    """Write a run's model as a folder that AutoModelForCausalLM and AutoTokenizer open.

    Logits and hidden states are those of the run's ensemble. If the head covers only part of the vocabulary, the logits
    of other tokens are 0, and generation_config.json suppresses them. The tokenizer is the one of the run's dataset, if
    it has one.

    Parameters
    ----------
    run : path
        Folder of the run.
    folder : path
        Folder to create, with its parents. It appears complete or not at all.
    step : int or "all", optional
        Step of the model: one of the last two checkpoints, or one that the run kept (`Run.keep`). None means the last
        (see `worldfast.training.load`). "all" means every one that is there: `folder` then holds a folder for each,
        step-00000120, and a model card, README.md, which says how they become revisions on the Hugging Face Hub.

    Returns
    -------
    Path
        The folder, resolved.

    Raises
    ------
    FileNotFoundError
        `run` is not a run's folder, or has no such checkpoint.
    FileExistsError
        `folder` exists and is not empty.
    TypeError
        `step` is neither an integer nor "all", or the model is not a transformer of tokens.
    ValueError
        The model has no positions (`rope_base=None`), which Qwen2 cannot express.

    Examples
    --------
    >>> spec = wf.TransformerSpec(hidden=16, layers=1, heads=2, intermediate=32)
    >>> data = cities.Dataset("distance", rows=64)
    >>> run = wf.Run(data, model=spec, batch=32, checkpoints=1, capture=wf.Capture(layers=()))
    >>> [folder] = wf.train(run, "runs", device="cpu", progress=False)
    >>> opened = wf.export_huggingface(folder, "open/distance")
    >>> sorted(path.name for path in opened.iterdir())[:2]
    ['config.json', 'generation_config.json']
    """
    step = step if step in (None, ALL) else whole("step", step)
    run = as_path("run", run)
    spec, found = saved(run, None if step == ALL else step)
    if not isinstance(spec.model, TransformerSpec) or spec.shape.vectors:
        reads = "vectors" if spec.shape.vectors else "tokens"
        raise TypeError(
            f"run: {spec.name!r} is a {type(spec.model).__name__} that reads {reads}; exported can be a "
            "TransformerSpec that reads tokens, as transformers has it as Qwen2. Its parameters by their names are "
            "those of `worldfast.training.load(folder)[1]`"
        )
    folder = as_path("folder", folder).resolve()
    if files.there(folder) and not (files.is_folder(folder) and not files.entries(folder)):
        raise FileExistsError(f"folder: '{folder}' is there already; expected a new or an empty folder")
    files.folder(folder.parent, "folder")
    with _whole_folder(folder) as new:
        if step != ALL:
            _write(run, spec, found, new)
            return folder
        there = steps_of(run)
        for one in there:
            (new / _named(one)).mkdir()
            _write(run, spec, saved(run, one)[1], new / _named(one))
        files.write_whole(new / "README.md", files.text_bytes(_card(spec, there)))
    return folder


def _named(step: int) -> str:
    return f"step-{step:08d}"


def _write(run: Path, spec: Run, found: Checkpoint, folder: Path) -> None:
    """Write the model of a checkpoint into a folder that is there."""
    size, tokenizer = spec.shape.inputs, spec.data.tokenizer() or Tokenizer({}, {})
    ensemble = spec.model.build(spec.shape)
    ensemble.parameters[0].copy_(found.parameters(ensemble.parameters.shape[1], run))
    tensors = ensemble.to_huggingface(0)
    head = tensors["lm_head.weight"]  # [H, D]
    tensors["lm_head.weight"] = torch.cat([head, head.new_zeros(size - len(head), head.shape[1])])
    about = {"id": spec.id, "run": spec.to_json(), "step": found.step, "origin": files.origin("cpu")}
    config = huggingface_config(spec.model, size, spec.data.longest) | tokenizer.special | {"worldfast": about}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = export_metadata(tensors, config)
    contents = {
        "config.json": config,
        "generation_config.json": _generation_config(len(head), size) | tokenizer.special,
        **tokenizer.files,
    }
    for name, content in contents.items():
        files.write_whole(folder / name, json.dumps(content, indent=1).encode())
    files.write_whole(folder / "model.safetensors", *checkpoint.contents(tensors, metadata))


def _card(spec: Run, steps: Sequence[int]) -> str:
    """Return the model card of a run at several steps, in Markdown with the metadata that the Hub reads."""
    origin = files.origin("cpu")
    start = f", from the last weights of `{getattr(spec.start, 'folder_name', spec.start)}`" if spec.start else ""
    rows = "".join(f"| `{_named(step)}` | {step:,} | {spec.rows_at(step)[0]:,} |\n" for step in steps)
    trained = f"{count(spec.steps, 'step')} of {count(spec.batch, 'row')}"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- worldfast
- training-dynamics
---

# {spec.name}

A {type(spec.model).__name__} of {spec.model.parameters(spec.shape):,} parameters, trained by worldfast
{origin["worldfast"]} for {trained} with seed {spec.seed}{start}. Its specification,
run `{spec.id}`, is in each `config.json` under `worldfast`.

Its model at {count(len(steps), "step")}, each in a folder that `AutoModelForCausalLM.from_pretrained` opens:

| folder | step | rows seen |
|---|---|---|
{rows}
On the Hub, `hf upload NAME {_named(steps[-1])} . --revision {_named(steps[-1])}` makes a revision of one, and
`from_pretrained(NAME, revision="{_named(steps[-1])}")` opens it.
"""


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path` once all is in it: it appears complete or not at all.

    Like a partial file it stands beside its place and is held by a lock; those of dead processes are removed first.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{files.PARTIAL}"):
        with suppress(OSError), _held(left):
            shutil.rmtree(left)
    beside = Path(tempfile.mkdtemp(files.PARTIAL, f".{path.name}.", path.parent))
    try:
        with _held(beside):
            whole = beside / path.name  # with the permissions of any folder
            whole.mkdir()
            yield whole
            os.replace(whole, path)
        files.sync_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a folder; raises an OSError if another process does, or if it is a link."""
    with files.naming(path, "it cannot be held"):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with files.naming(path, "it cannot be held"):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _generation_config(outputs: int, vocabulary: int) -> dict:
    content = {"do_sample": False, "max_new_tokens": LONGEST_ANSWER}
    return content | ({"suppress_tokens": list(range(outputs, vocabulary))} if outputs < vocabulary else {})
