"""Stand-ins that tests of several rooms share: activations, a file that passes everything on, a user's own Python file."""


class OneCheckpoint:
    """Activations of a single step and layer."""

    steps = (0,)

    def __init__(self, array):
        self.array = array

    def __getitem__(self, key):
        return self.array


class PassingOn:
    """An open file, of which a subclass does one thing in another way."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


# What --load and `load_file` read: a task and a dataset of one's own.
OWN = """
from dataclasses import dataclass
import worldfast as wf
from worldfast.worlds import cities

@wf.task("west", cities=2, choices=("NO", "YES"))
def further_west(xy):
    return xy[:, 0, 0] < xy[:, 1, 0]

@dataclass(frozen=True)
class Towns(cities.Dataset):
    @property
    def label(self):
        return "towns"
"""
