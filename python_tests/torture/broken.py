"""Work in which one rule of the house is broken, for tests of whoever must notice."""

import os

from torture.work import work
from worldfast import checkpoint, files
from worldfast.training import member


def in_place(*how) -> None:
    """Work as if files were written where they stand, in two halves, and not beside it."""

    def write(path, *content):
        whole = b"".join(map(bytes, content))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            os.write(handle, part)
        os.close(handle)
        return path

    files.write_whole = checkpoint.write_whole = write
    assert member.files is files
    work(*how)
