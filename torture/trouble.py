"""Trouble of disk and environment: the right error, named; nothing else touched; and the same call goes on to the same files.

A try counts only where the trouble came: the call that was to fail was made, a limit was reached, a part was removed.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torture.faults import CALLS, FOREVER, Nursery, nursery_of
from torture.tally import Tally
from torture.work import PARTS, differences, left, study, towns, work

PROMISE = "disk and environment trouble"
TARGET = 400  # troubles
NURSED = ("train", "export", "read")
FAILURES = {
    "open": (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO, errno.EROFS, errno.ENOSPC),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.EIO, errno.ENOSPC, errno.EROFS),
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS),
    "flock": (errno.ENOLCK, errno.EIO),
}
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "Latin-1": {"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8"},
}
MADE = ("Latin-1", "Turkish")  # by localedef: few machines have them


# ---- what processes do ----


def with_limit(limit: str, room: int, *how) -> None:
    """Work with so much of a resource beyond what is in use: descriptors, bytes of memory, bytes of a file."""
    if limit == "descriptors":
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + room, 4096))
    elif limit == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    work(*how)


def with_jumps(seed: int, *how) -> None:
    """Work while the clock of the system jumps by years, among files from 1970 and from 2100."""
    chance, real = random.Random(seed), time.time
    time.time = lambda: real() + chance.choice((-1, 1)) * chance.uniform(0, 1e9)
    for path in Path(how[1]).rglob("*"):
        os.utime(path, (0, 0) if chance.random() < 0.5 else (4102444800, 4102444800))
    work(*how)


def while_vanishing(part: str, step: int, world: str, out: str) -> bool:
    """Train while somebody removes a part of a run's folder; returns True if it was there."""
    import worldfast as wf

    runs = study(world).runs
    place = Path(out) / "runs" / runs[0].folder_name / part
    removed = []

    def log(run, line):
        if run.id == runs[0].id and line["step"] == step:
            removed.append(place.exists())
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)

    wf.train(runs, Path(out) / "runs", device="cpu", progress=False, log=log)
    return any(removed)


# ---- judging ----


def as_expected(ended: dict, codes: Sequence[int], out: Path) -> str:
    """Return what is wrong with an ending; "" if it is no error, or the right one that names a file."""
    if not ended["status"]:
        return ""
    if ended["status"] < 0 or "error" not in ended:
        return f"it died: {ended}"
    kinds, text = ended["error"], ended["text"]
    if "MemoryError" in kinds or "memory" in text.lower():
        return "" if errno.ENOMEM in codes else f"{kinds[0]}: {text}"
    missing = errno.ENOENT if "FileNotFoundError" in kinds else None  # one of our own has no number
    if "OSError" not in kinds or (ended["errno"] or missing) not in codes:
        return f"{kinds[0]} ({ended['errno']}): {text} {ended['trace'][-700:]}"
    return "" if errno.ENOMEM in codes or str(out) in text else f"it names no file: {text} {ended['trace'][-700:]}"


def ended_in_error(ended: dict) -> bool:
    """Return True if a process ended so: of a limit, which is reached or not, nothing else is known."""
    return bool(ended["status"])


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def begun_again(said: str, out: Path) -> bool:
    """Do what an error says that is past mending: remove what its run has, to begin again."""
    if "to begin again" not in said:
        return False
    for folder in (out / "runs").glob("*t-*"):
        if str(folder) in said:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
            (folder / "done").unlink(missing_ok=True)
    return True


class Troubles:
    """Troubles of a study that stands beside a finished run of another one: from its beginning, or once it is trained."""

    def __init__(self, tally: Tally, nursery: Nursery, world: str, parts: Sequence[str]):
        self.tally, self.nursery, self.world, self.parts = tally, nursery, world, parts
        self.chance, self.number = random.Random(tally.seed), 0
        self.beside, self.trained = tally.place / "beside", tally.place / "trained"
        self._do(self.beside, ("train",), (), 43)
        self.others = [path.relative_to(self.beside) for path in (self.beside / "runs").iterdir() if path.is_dir()]
        shutil.copytree(self.beside, self.trained)
        self._do(self.trained, ("train",))
        self._do(whole := self._copy(self.trained), parts)
        self.expected = left(whole)
        self.begun = (self.beside, self.trained) if len(parts) > 1 else (self.beside,)  # what stands before trouble
        self.calls = {of: self._calls(of) for of in self.begun}
        self.quiet = 0  # tries in which no trouble came

    def _do(self, out: Path, *how) -> dict:
        ended = self.nursery.call("torture.work:work", self.world, str(out), *how)
        if ended["status"]:
            raise RuntimeError(f"an untroubled study fails: {ended}")
        return ended

    def _calls(self, of: Path) -> dict[str, int]:
        """Count the calls of each kind that the work makes, from a copy of this folder on."""
        out = self._copy(of)
        seen = self._do(out, self.parts, (CALLS[0], FOREVER, 0, str(out)))["seen"]
        shutil.rmtree(out)
        return seen

    def _copy(self, of: Path) -> Path:
        self.number += 1
        return Path(shutil.copytree(of, self.tally.place / str(self.number)))

    def one(
        self,
        kind: str,
        codes: Sequence[int],
        function: str,
        *first,
        came: Callable[[dict], bool] = ended_in_error,
        of: Path | None = None,
        goes_on: bool = True,
        last: tuple = (),
    ) -> None:
        """Work in trouble, then without: compare the error, the other run, and the final files.

        Counts if the trouble `came`, by the ending of the process; what fails counts at any time.
        """
        out = self._copy(of or (self.chance.choice(self.begun) if goes_on else self.beside))
        before = [stamps(out / path) for path in self.others]
        how = (self.world, str(out)) + ((self.parts, *last) if goes_on else ())
        ended = self.nursery.call(function, *first, *how)
        said = as_expected(ended, codes, out)
        if not said and kind != "clock jumps" and [stamps(out / path) for path in self.others] != before:
            said = "another run was touched"
        if not said and not came(ended):
            self.quiet += 1
            shutil.rmtree(out)
            return
        if not said:
            again = self.nursery.call("torture.work:work", self.world, str(out), self.parts)
            if again["status"] and not goes_on and begun_again(again["text"], out):
                again = self.nursery.call("torture.work:work", self.world, str(out), self.parts)
            if again["status"]:
                said = f"then it does not go on: {again.get('text', again)} {again.get('trace', '')[-500:]}"
        said = said or differences(left(out), self.expected)
        self.tally.expect(kind, not said, f"{first}{last}: {said}")
        shutil.rmtree(out)

    def fault(self) -> None:
        of = self.chance.choice(self.begun)
        call = self.chance.choice([one for one in FAILURES if self.calls[of][one]])
        code, times = self.chance.choice(FAILURES[call]), self.chance.choice((1, FOREVER))
        first = max(1, round(self.calls[of][call] ** self.chance.random()))
        self.failing(of, call, first, code, times)

    def failing(self, of: Path, call: str, first: int, code: int, times: int) -> None:
        """Let calls of a kind fail, from the first to fail on."""
        fault = (call, first, code, str(self.tally.place / str(self.number + 1)), times)
        self.one(
            f"{call} fails: {errno.errorcode[code]}",
            (code,),
            "torture.work:work",
            came=lambda ended: ended.get("seen", {}).get(call, 0) >= first,
            of=of,
            last=(fault,),
        )

    def descriptors(self) -> None:
        room = self.chance.randint(1, 8)
        self.one("no descriptors", (errno.EMFILE,), "torture.trouble:with_limit", "descriptors", room)

    def memory(self) -> None:
        room = int(2 ** self.chance.uniform(16, 27))
        self.one("no memory", (errno.ENOMEM,), "torture.trouble:with_limit", "memory", room)

    def size(self) -> None:
        room = int(2 ** self.chance.uniform(5, 17))
        self.one("files of limited size", (errno.EFBIG,), "torture.trouble:with_limit", "size", room)

    def clock(self) -> None:
        seed = self.chance.randrange(1 << 30)
        self.one("clock jumps", (), "torture.trouble:with_jumps", seed, came=lambda ended: True)

    def vanished(self) -> None:
        part = self.chance.choice(("checkpoint", "activations", "metrics.jsonl", "spec.json", "lock"))
        step = self.chance.randint(1, study(self.world).runs[0].steps)
        function = "torture.trouble:while_vanishing"
        self.one(
            f"vanished: {part}",
            (errno.ENOENT,),
            function,
            *(part, step),
            came=lambda ended: bool(ended["status"] or ended["answer"]),
            goes_on=False,
        )

    def path(self) -> None:
        out = self.tally.place / os.fsdecode(b"caf\xe9 \xff\xfe")
        shutil.copytree(self.beside, out)
        said = ""
        for _ in range(2):  # made, and made again
            ended = self.nursery.call("torture.work:work", self.world, str(out), self.parts)
            said = said or (f"{ended.get('text')} {ended.get('trace')}" if ended["status"] else "")
        said = said or differences(left(out), self.expected)
        self.tally.expect("a path that is not UTF-8", not said, said)
        shutil.rmtree(out)


def make_locale(tally: Tally, name: str) -> bool:
    """Make a locale where processes look for it; returns False, with a note, if this machine cannot."""
    language, _, charmap = LOCALES[name]["LC_ALL"].partition(".")
    place = tally.place / LOCALES[name]["LC_ALL"]
    if shutil.which("localedef"):  # it warns by its status
        subprocess.run(["localedef", "-c", "-i", language, "-f", charmap, place], capture_output=True)
    if not place.exists():
        tally.notes.append(f"locale: {name}: not tried, as localedef does not make it here")
    return place.exists()


def locales(tally: Tally, world: str, parts: Sequence[str], names: Sequence[str]) -> None:
    """Do all in processes of other locales, and compare the files with each other."""
    names = [name for name in names if name not in MADE or make_locale(tally, name)]
    first: dict[str, str] = {}
    for name in ("as it is", *names):
        out = tally.place / f"locale {name}"
        folder = tally.place / f"nursery-{name.replace(' ', '-')}"  # LD_PRELOAD is parted by spaces
        folder.mkdir()
        variables = LOCALES.get(name, {}) | ({"LOCPATH": str(tally.place)} if name in MADE else {})
        with Nursery(folder, ("torture.work:work", world, str(out), parts), variables):
            pass
        found = left(out) if out.exists() else {}
        first = first or found
        said = differences(found, first)
        text = (folder / "log").read_text(encoding="utf-8", errors="replace")[-300:] if said else ""
        tally.expect(f"locale: {name}", not said, f"{said} {text}")


def run(
    tally: Tally, parts: Sequence[str] = NURSED, names: Sequence[str] = tuple(LOCALES), there: Nursery | None = None
) -> None:
    """Try every kind of trouble in turn."""
    world = str(towns(tally.place / "towns.csv"))
    with nursery_of(there, tally.place, ("torture.work:work", world, str(tally.place / "warm"), parts)) as nursery:
        go_through(Troubles(tally, nursery, world, parts))
    if names:
        locales(tally, world, PARTS, names)


def go_through(troubles: Troubles) -> None:
    """Try every kind of trouble but locales: every second one is a call of the system that fails."""
    others = (troubles.descriptors, troubles.memory, troubles.size, troubles.clock, troubles.vanished, troubles.path)
    number = 0
    while troubles.tally.going:
        (others[number // 2 % len(others)] if number % 2 else troubles.fault)()
        number += 1
    troubles.tally.notes.append(f"{troubles.quiet} tries in which no trouble came are not counted")
