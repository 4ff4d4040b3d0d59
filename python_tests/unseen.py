"""Files and folders that cannot be looked at, as where their folder cannot be searched, or on a broken disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def unseen(name: str, number: int) -> Iterator[None]:
    """Let whatever asks for the state of a path of this name get an error, and pathlib take any error for absence, as it
    does from Python 3.14 on.
    """

    def but_for(real):
        def state(path, *rest, **how):
            if not isinstance(path, int) and os.path.basename(os.fspath(path)) == name:
                raise OSError(number, os.strerror(number), path)
            return real(path, *rest, **how)

        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", but_for(os.stat))
        patch.setattr(os, "lstat", but_for(os.lstat))
        for kind, ask in (("exists", os.path.exists), ("is_file", os.path.isfile), ("is_dir", os.path.isdir)):
            patch.setattr(Path, kind, ask)
        yield
