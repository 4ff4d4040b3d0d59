"""Rows of tasks in Python for a GPU: they are made on the CPU, in training while the GPU takes the steps before."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import torch

from worldfast._native import current_device_of

LEFT_OUT = ("vocabulary", "tasks", "scratch", "failed")  # fields of Batch and Packed that are not rows


def copy_rows(made, out, reset=False):
    """Copy rows of a Batch or Packed on the CPU to another on a GPU, queued on the current CUDA stream.

    Parameters
    ----------
    made : Batch or Packed
        Source.
    out : Batch or Packed
        Destination.
    reset : bool
        Always write `failed`; otherwise it is written only if a row is missing.
    """
    with current_device_of(out.failed):
        for name in (field.name for field in fields(made) if field.name not in LEFT_OUT):
            rows, there = torch.as_tensor(getattr(made, name), device="cpu"), torch.from_dlpack(getattr(out, name))
            there[: len(rows)].copy_(rows, non_blocking=True)
        if reset or made.failed[0] >= 0:
            torch.from_dlpack(out.failed).fill_(int(made.failed[0]))


class Ahead:
    """Packed rows made on the CPU; a thread makes the next ones while the present ones are in use.

    Training requests rows in consecutive stretches. There are two buffers, in pinned memory if there is a GPU: one is
    filled while the other is uploaded.

    Parameters
    ----------
    stream : Stream
    """

    def __init__(self, stream):
        self._stream = stream
        self._buffers = [None, None]  # capacity in rows, a Packed, the event of its last upload
        self._next = 0
        self._coming = None  # start, n, and the future of rows in buffer `_next`
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rows")

    def pack(self, start, n, out):
        """Upload rows start .. start + n - 1 to `out`, made in advance or now, and begin to make the n after them."""
        coming, self._coming = self._coming, None
        if coming is not None and coming[:2] != (start, n):
            coming[2].cancel() or coming[2].exception()  # the buffer is free when it has ended
            coming = None
        made = coming[2].result() if coming else self._make(start, n, self._next)
        copy_rows(made, out)
        event = self._buffers[self._next][2]
        if event is not None:
            event.record(torch.cuda.current_stream(out.tokens.device))
        self._next = 1 - self._next
        self._coming = (start + n, n, self._thread.submit(self._make, start + n, n, self._next))

    def _make(self, start, n, which):
        room, buffer, uploaded = self._buffers[which] or (-1, None, None)
        if uploaded is not None:
            uploaded.synchronize()
        if n > room:
            gpu = torch.cuda.is_available()
            buffer = self._stream.empty_pack(n)
            if gpu:
                arrays = {field.name: torch.from_numpy(getattr(buffer, field.name)) for field in fields(buffer)}
                buffer = replace(buffer, **{name: array.pin_memory().numpy() for name, array in arrays.items()})
            self._buffers[which] = (n, buffer, torch.cuda.Event() if gpu else None)
        out = replace(buffer, row_start=buffer.row_start[: n + 1], answer_start=buffer.answer_start[:n])
        out.failed.fill(-1)
        made = self._stream.pack(start, n, out=out, check=False)
        return replace(made, tokens=made.tokens[: int(made.row_start[n]) if made.failed[0] < 0 else 0])
