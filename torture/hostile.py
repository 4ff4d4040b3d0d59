"""Files from strangers: no code runs, no file outside is read, written or removed, and sizes are checked before memory is
taken. Each case is opened in a process with little memory and time, beside a file outside that must stay as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from torture.faults import Nursery, nursery_of
from torture.tally import Tally
from torture.work import towns, work
from worldfast import files

PROMISE = "files from strangers"
ROOM = 700 << 20  # bytes of memory beyond what a process has
SECONDS = 60.0
SECRET = b"what lies outside: 7e1f0b"
ALLOWED = ("ValueError", "OSError", "TypeError")  # errors that teach, and their kinds
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


class Bomb:
    """Object whose unpickling makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


# ---- what is done with a folder, in a process of its own ----


def act(action: str, out: str) -> str:
    """Do what a user does with a folder; returns what was read, in words."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
    return ACTIONS[action](Path(out))


def _run_folder(out: Path) -> Path:
    return next(path for path in sorted((out / "runs").glob("pt-distance-*")))


def _verify(out: Path) -> str:
    from worldfast.verify import verify

    found = [one for one in verify(out) if not one.fine]
    if not found:
        raise AssertionError("nothing is found")
    return repr(found)


def _load(out: Path) -> str:
    from worldfast.training import load

    run, ensemble = load(_run_folder(out))
    return repr((run.id, ensemble.parameters.sum().item()))


def _activations(out: Path) -> str:
    import worldfast as wf

    found = wf.Activations(_run_folder(out))
    return repr([found[step, layer].tobytes() for step in found.steps for layer in found.layers])


def _dataset(out: Path) -> str:
    import worldfast as wf

    found = wf.Activations(_run_folder(out))
    return repr(np.asarray(found.dataset(found.steps[-1], found.layers[-1])[:]).tobytes())


def _train(out: Path) -> str:
    work(str(out / "towns.csv"), str(out), ("train",))
    return ""


def _read(out: Path) -> str:
    work(str(out / "towns.csv"), str(out), ("read",))
    return ""


def _status(out: Path) -> str:
    import contextlib

    from worldfast.studies import print_status

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        print_status(out / "studies" / "tiny")
    if "\x1b" in said.getvalue():
        raise AssertionError("escape codes reach the terminal")
    return said.getvalue()


def _open(out: Path) -> str:
    import worldfast as wf

    return repr(wf.import_huggingface(out / "open").parameters.sum().item())


def _page(out: Path) -> str:
    work(str(out / "towns.csv"), str(out / "new"), ("train", "read", "draw"))
    text = next((out / "new").rglob("report.html")).read_text(encoding="utf-8")
    if SCRIPT in text or "onerror=alert(1)>" in text:
        raise AssertionError("a name is markup on the page")
    return ""


def _world(out: Path) -> str:
    import worldfast as wf

    return repr(wf.World.from_csv(out / "towns.csv").xy.sum())


ACTIONS: dict[str, Callable[[Path], str]] = {
    "verify": _verify,
    "load": _load,
    "activations": _activations,
    "dataset": _dataset,
    "train": _train,
    "read": _read,
    "status": _status,
    "import": _open,
    "page": _page,
    "world": _world,
}


# ---- hostile files: each a function of a study's folder and of the folder outside ----


def _last(out: Path, part: str) -> Path:
    return sorted((_run_folder(out) / part).iterdir())[-1]


def _edit(path: Path, **changes) -> None:
    """Change a file of JSON, and give it the checksum that its author would: a stranger can compute one."""
    content, _ = files.parse_json(path)
    files.write_json(path, content | changes)


def _safetensors(path: Path, header: dict, data: bytes = b"", size: int | None = None) -> None:
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)


def huge_tensor(out, outside):
    count = 10**15
    parts = {"parameters": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    _safetensors(_last(out, "checkpoint"), parts)


def huge_header(out, outside):
    _safetensors(_last(out, "checkpoint"), {}, size=2**62)


def pickled_checkpoint(out, outside):
    _last(out, "checkpoint").write_bytes(pickle.dumps(Bomb(outside / "pwned")))


def pickled_segment(out, outside):
    _last(out, "activations").write_bytes(pickle.dumps(Bomb(outside / "pwned")))


def _remade_segment(out, make) -> None:
    import h5py

    path = _last(out, "activations")
    with h5py.File(path, "r+") as file:
        name = sorted(key for key in file if key.startswith("layer"))[-1]
        shape, attributes = file[name].shape, dict(file[name].attrs)
        del file[name]
        make(file, name, shape)
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            for key, value in attributes.items():
                file[name].attrs[key] = value


def external_link(out, outside):
    import h5py

    with h5py.File(outside / "other.h5", "w") as file:
        file["x"] = np.frombuffer(SECRET, dtype=np.uint8)

    def make(file, name, shape):
        file[name] = h5py.ExternalLink(str(outside / "other.h5"), "x")

    _remade_segment(out, make)


def external_storage(out, outside):
    def make(file, name, shape):
        file.create_dataset(name, (len(SECRET),), np.uint8, external=[(str(outside / "secret"), 0, len(SECRET))])

    _remade_segment(out, make)


def virtual_dataset(out, outside):
    import h5py

    with h5py.File(outside / "other.h5", "w") as file:
        file["x"] = np.frombuffer(SECRET, dtype=np.uint8)

    def make(file, name, shape):
        layout = h5py.VirtualLayout((len(SECRET),), np.uint8)
        layout[:] = h5py.VirtualSource(str(outside / "other.h5"), "x", shape=(len(SECRET),))
        file.create_virtual_dataset(name, layout)

    _remade_segment(out, make)


def huge_dataset(out, outside):
    def make(file, name, shape):
        file.create_dataset(name, (10**12, 10**3), np.float32, chunks=(1, 1000))

    _remade_segment(out, make)


def inflated_dataset(out, outside):
    def make(file, name, shape):
        file.create_dataset(name, (250_000, 1000), np.float32, chunks=(10_000, 1000), compression="gzip", fillvalue=0)[
            :10_000
        ] = 0

    _remade_segment(out, make)


def link_to_itself(out, outside):
    import h5py

    def make(file, name, shape):
        file[name] = h5py.SoftLink(f"/{name}")

    _remade_segment(out, make)


def class_of_the_system(out, outside):
    path = _run_folder(out) / "spec.json"
    spec = json.loads(path.read_text())
    spec["run"]["data"]["class"] = "os.system"
    _edit(path, run=spec["run"])


def class_in_a_file(out, outside):
    (out / "owned.py").write_text(f"open({str(outside / 'pwned')!r}, 'w')\n")
    path = _run_folder(out) / "spec.json"
    spec = json.loads(path.read_text())
    spec["run"]["model"]["class"] = "owned.Spec"
    _edit(path, run=spec["run"])


def deep_spec(out, outside):
    (_run_folder(out) / "spec.json").write_text("[" * 200_000 + "]" * 200_000)


def huge_model(out, outside):
    path = _run_folder(out) / "spec.json"
    spec = json.loads(path.read_text())
    spec["run"]["model"]["hidden"] = 2**40
    _edit(path, run=spec["run"])


def many_checkpoints(out, outside):
    path = _run_folder(out) / "spec.json"
    spec = json.loads(path.read_text())
    spec["run"]["checkpoints"] = 10**9
    _edit(path, run=spec["run"])


def _without(name):
    def make(out, outside):
        path = _run_folder(out) / "spec.json"
        content, _ = files.parse_json(path)
        files.write_json(path, {key: value for key, value in content.items() if key != name})

    return make


def run_in_a_run(out, outside):
    path = _run_folder(out) / "spec.json"
    run = json.loads(path.read_text())["run"]
    for _ in range(300):  # deeper than Python calls functions
        run = run | {"start": run}
    _edit(path, run=run)


def state_of_a_checkpoint(out, outside):
    from worldfast import checkpoint

    folder, last = _run_folder(out), _last(out, "checkpoint")
    run = json.loads((folder / "spec.json").read_text())["id"]
    found = checkpoint.read(last, run)
    checkpoint.save(last.parent, replace(found, state={"pending": ["text"]}), run, {})
    (folder / "done").unlink()


def _linked(name):
    def make(out, outside):
        path = _run_folder(out) / name
        if path.is_dir():
            target = outside / name
            shutil.copytree(path, target)
            shutil.rmtree(path)
        else:
            target = outside / "secret"
            path.unlink()
        path.symlink_to(target)
        (_run_folder(out) / "done").unlink(missing_ok=True)

    return make


def _fifo(name):
    def make(out, outside):
        path = _run_folder(out) / name
        path.unlink()
        os.mkfifo(path)
        if name != "done":
            (_run_folder(out) / "done").unlink()

    return make


def paths_in_a_study(out, outside):
    path = out / "studies" / "tiny" / "study.json"
    content = json.loads(path.read_text())
    content["runs"][0]["folder"] = os.path.relpath(outside, out / "runs")
    shutil.copy(_run_folder(out) / "metrics.jsonl", outside / "metrics.jsonl")
    with open(outside / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 7_654_321, "rows": 7_654_321, "loss": 1.0}) + "\n")
    _edit(path, runs=content["runs"])


def escapes_in_a_study(out, outside):
    path = out / "studies" / "tiny" / "study.json"
    content = json.loads(path.read_text())
    content["runs"][0]["name"] = ESCAPE
    _edit(path, runs=content["runs"], name=ESCAPE)


def linked_tables(out, outside):
    shutil.rmtree(out / "tables")
    (outside / "tables").mkdir()
    (outside / "tables" / "kept.csv.partial").write_bytes(SECRET)
    (out / "tables").symlink_to(outside / "tables")


def linked_studies(out, outside):
    (out / "studies").rename(outside / "studies")
    (out / "studies").symlink_to(outside / "studies")


def linked_study(out, outside):
    path = out / "studies" / "tiny" / "study.json"
    path.unlink()
    path.symlink_to(outside / "secret")


def code_in_a_config(out, outside):
    (out / "open" / "owned.py").write_text(f"open({str(outside / 'pwned')!r}, 'w')\n")
    _edit(out / "open" / "config.json", auto_map={"AutoModelForCausalLM": "owned.Model"}, trust_remote_code=True)


def huge_config(out, outside):
    _edit(out / "open" / "config.json", hidden_size=2**40, intermediate_size=2**40)


def huge_vocabulary(out, outside):
    _edit(out / "open" / "config.json", vocab_size=2**40)


def many_layers(out, outside):
    _edit(out / "open" / "config.json", num_hidden_layers=10**9)


def pickled_weights(out, outside):
    (out / "open" / "model.safetensors").unlink()
    (out / "open" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(outside / "pwned")))


def shards_outside(out, outside):
    (out / "open" / "model.safetensors").rename(outside / "model.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"model.norm.weight": os.path.relpath(outside / "model.safetensors", out / "open")},
    }
    (out / "open" / "model.safetensors.index.json").write_text(json.dumps(index))


def names_on_a_page(out, outside):
    path = out / "towns.csv"
    lines = path.read_text().splitlines()
    named = [f'{line},"{SCRIPT} {ESCAPE} {{{{data}}}}"' for line in lines[1:]]
    path.write_text("\n".join([f"{lines[0]},name", *named]) + "\n", encoding="utf-8")


def wide_world(out, outside):
    (out / "towns.csv").write_text("city_id,x,y,region" + ",c" * 100_000 + "\n1,2,3,north" + ",1" * 100_000 + "\n")


def world_of_bytes(out, outside):
    (out / "towns.csv").write_bytes(b"city_id,x,y,region\n\x00\xff\xfe,1,2,n\n")


def world_of_large_numbers(out, outside):
    (out / "towns.csv").write_text("city_id,x,y,region\n99999999999999999999,1e308,nan,north\n")


FIELDS = ("id", "run", "captured", "steps")
RUN_FILES = ("lock", "metrics.jsonl", "spec.json", "checkpoint", "activations", "done")
CASES: dict[str, tuple[Callable, str]] = {
    "checkpoint: a tensor of 10^15": (huge_tensor, "load"),
    "checkpoint: a header of 2^62 bytes": (huge_header, "load"),
    "checkpoint: a pickle": (pickled_checkpoint, "load"),
    "segment: a pickle": (pickled_segment, "activations"),
    "segment: an external link": (external_link, "activations"),
    "segment: an external link, unread": (external_link, "dataset"),
    "segment: external storage": (external_storage, "activations"),
    "segment: external storage, unread": (external_storage, "dataset"),
    "segment: a virtual dataset": (virtual_dataset, "activations"),
    "segment: a virtual dataset, unread": (virtual_dataset, "dataset"),
    "segment: a shape of 10^15": (huge_dataset, "activations"),
    "segment: a megabyte that inflates to a gigabyte": (inflated_dataset, "activations"),
    "segment: a link to itself": (link_to_itself, "activations"),
    "spec: a class of the system": (class_of_the_system, "load"),
    "spec: a class in a file beside it": (class_in_a_file, "load"),
    "spec: brackets": (deep_spec, "load"),
    "spec: a model of 2^40": (huge_model, "load"),
    "spec: 10^9 checkpoints": (many_checkpoints, "load"),
    "spec: a run in a run in a run": (run_in_a_run, "load"),
    "spec: a run in a run in a run, verified": (run_in_a_run, "verify"),
    **{f"spec: without {name}": (_without(name), "activations") for name in FIELDS},
    **{f"spec: without {name}, verified": (_without(name), "verify") for name in FIELDS},
    "checkpoint: a state of something else": (state_of_a_checkpoint, "train"),
    **{f"run folder: {name} is a link": (_linked(name), "train") for name in RUN_FILES},
    **{
        f"run folder: {name} is a FIFO": (_fifo(name), "train")
        for name in RUN_FILES
        if "." in name or name in ("lock", "done")
    },
    "study: a run's folder outside": (paths_in_a_study, "status"),
    "study: escape codes": (escapes_in_a_study, "status"),
    "study: tables/ is a link": (linked_tables, "read"),
    "study: study.json is a link": (linked_study, "read"),
    "study: studies/ is a link": (linked_studies, "read"),
    "study: studies/ is a link, verified": (linked_studies, "verify"),
    "Hugging Face: code": (code_in_a_config, "import"),
    "Hugging Face: sizes of 2^40": (huge_config, "import"),
    "Hugging Face: a vocabulary of 2^40": (huge_vocabulary, "import"),
    "Hugging Face: 10^9 layers": (many_layers, "import"),
    "Hugging Face: a pickle": (pickled_weights, "import"),
    "Hugging Face: shards outside": (shards_outside, "import"),
    "page: names are markup and escape codes": (names_on_a_page, "page"),
    "CSV: 100,000 columns": (wide_world, "world"),
    "CSV: bytes": (world_of_bytes, "world"),
    "CSV: large numbers": (world_of_large_numbers, "world"),
}
TARGET = len(CASES)


def content_of(folder: Path) -> str:
    """Return a digest of all that lies in a folder, names too."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def attempt(nursery: Nursery, action: str, out: Path, outside: Path) -> str:
    """Open what a stranger made; returns what went wrong, "" if nothing did."""
    before = content_of(outside)
    child = nursery.start("torture.hostile:act", action, str(out))
    if child.alive(SECONDS):
        child.signal(signal.SIGKILL)
        child.wait()
        return f"it hangs, for {SECONDS:.0f} s"
    ended = child.wait()
    if content_of(outside) != before:
        return "something outside was written or removed"
    if ended["status"] < 0:
        return f"it died by signal {-ended['status']}"
    if ended["status"] and not set(ALLOWED) & set(ended["error"]):
        return f"{ended['error'][0]}: {ended['text'][:200]} {ended['trace'][-300:]}"
    if "12] Cannot allocate" in ended.get("text", "") or ended.get("errno") == 12:
        return f"memory was taken first: {ended['text'][:200]}"
    answer = ended.get("answer", "")
    if SECRET.decode() in answer or "7,654,321" in answer or repr(SECRET)[2:-1] in answer:
        return "something outside was read"
    return ""


def run(
    tally: Tally,
    names: tuple[str, ...] = tuple(CASES),
    parts: tuple[str, ...] = ("train", "export", "read", "draw"),
    there: Nursery | None = None,
) -> None:
    """Try each case once."""
    whole = tally.place / "whole"
    whole.mkdir()
    how = ("torture.work:work", str(towns(whole / "towns.csv")), str(whole), parts)
    with nursery_of(there, tally.place, how) as nursery:
        nursery.call(*how)
        for number, name in enumerate(names):
            if not tally.going:
                break
            make, action = CASES[name]
            out, outside = tally.place / f"case-{number}", tally.place / f"outside-{number}"
            shutil.copytree(whole, out)
            outside.mkdir()
            (outside / "secret").write_bytes(SECRET)
            make(out, outside)
            said = attempt(nursery, action, out, outside)
            tally.expect(name, not said, said)
            shutil.rmtree(out)
            shutil.rmtree(outside)
