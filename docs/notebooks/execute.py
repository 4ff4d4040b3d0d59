"""Executes the notebooks of this folder from top to bottom and saves them with what they printed and drew.

    make notebooks      all of them, at full size: a few minutes

A notebook is saved with the hash of the code that made its outputs, so that a change of the code that was not executed
is seen (python_tests/docs/test_notebooks.py). A fraction of the size is for tests, which save nothing.
"""

import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS = 600  # that a cell may take; compiling on a busy machine takes the longest


def execute(path, scale=1.0, then=""):
    """A notebook, executed: a new notebook object. The file stays as it is.

    path    of the .ipynb
    scale   of the rows that its models are trained on, as WORLDFAST_SCALE tells it
    then    code of one more cell at the end, for whoever asks what was found

    Raises nbclient.exceptions.CellExecutionError where a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    if then:
        notebook.cells.append(nbformat.v4.new_code_cell(then))
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(Path(path).parent)}},
    )
    before = os.environ.get("WORLDFAST_SCALE")
    os.environ["WORLDFAST_SCALE"] = str(scale)
    try:
        client.execute()
    finally:
        if before is None:
            del os.environ["WORLDFAST_SCALE"]
        else:
            os.environ["WORLDFAST_SCALE"] = before
    # What differs from one installation to the next says nothing about the notebook.
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "worldfast": {"executed": code_hash(notebook), "scale": scale},
        }
    )
    return notebook


def code_hash(notebook):
    """SHA-256 of the code of a notebook's cells, in their order."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.name for path in FOLDER.glob("*.ipynb")):
        nbformat.write(execute(FOLDER / name), FOLDER / name)
        print(f"executed and saved {name}")
