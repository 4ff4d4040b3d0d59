"""A call of every entry of the native core that works, and what may be put in place of each argument.

Tests change one argument at a time; torture/fuzz.py changes several.
"""

import numpy as np

from worldfast._native import core

REFUSALS = (TypeError, ValueError, IndexError, KeyError, OverflowError, MemoryError, BufferError)

NUMBERS = (
    *(None, "x", 1.5, True, -1, 0, 1, 2, 7, float("nan"), float("inf"), 10**30, -(2**63)),
    *(2**n + more for n in (31, 32, 53, 62, 63, 64) for more in (-1, 0)),
)
FILLS = (-1, 0, 1, 2, 127, 2**31 - 1, -(2**31), float("nan"), float("inf"))
DTYPES = ("u1", "i1", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "?", "O", ">i4", "U1")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def floats(*shape):
    return np.zeros(shape, np.float32)


def ints(*values):
    return np.array(values, np.int32)


def longs(*values):
    return np.array(values, np.int64)


# ---- calls that work ----


def component(**changes):
    common = dict(task=0, pool=None, group=None, rest=None, key=7, first=0, rows=20, pair_key=5, pair_count=190)
    return common | dict(pair_offset=0, noise=2**62, noise_key=3, reshuffled=False) | changes


def write_labels(points, labels, count):
    np.frombuffer(labels, np.int64)[:] = np.frombuffer(points, np.int32).reshape(-1, count * 2)[:, 0] % 2


def given():
    common = dict(name="mid", prompt="mid", min_cities=2, max_cities=3, semicolon=-1, balanced=True)
    return common | dict(answers=["no", "yes"], digits=9, rule=write_labels)


def stream_arguments():
    parts = [
        component(),
        component(task=4, pair_count=0),
        component(task=7, pair_count=0, pool=np.arange(9, dtype="i4")),
    ]
    return [(drawn(20, 2) * 1000).astype(np.int32), np.arange(20, dtype=np.int32), False, [given()], parts, 1, 9]


def rows_of(width, cities):
    u, i, q = np.uint8, np.int32, np.int64
    shapes = (((5, width), u), (5, i), (5, i), ((5, cities), i), (5, q), (5, u), (1, q))
    return [0, 5, *(np.zeros(shape, dtype) for shape, dtype in shapes), True, 2, 0]


def packed_of(stream):
    u, i, q = np.uint8, np.int32, np.int64
    sizes = ((stream.packed_room(5), i), (6, i), (5, i), (1, q), (stream.packed_scratch(5) + 16, u))
    arrays = [np.zeros(size, dtype) for size, dtype in sizes]
    arrays[-1] = arrays[-1][-arrays[-1].ctypes.data % 16 :]
    return [0, 5, *arrays, True, 0]


D, F, H, V = 16, 8, 10, 12


def shape(**changes):
    sizes = [V * D, *2 * [D, 3 * D * D, 3 * D, D * D, D, 2 * F * D, D * F], D, H * D]
    offsets = np.cumsum([0, *sizes])
    common = dict(hidden=D, layers=2, heads=2, intermediate=F, vocabulary=V, outputs=H, rope_base=1e4, norm_eps=1e-6)
    return common | dict(offsets=offsets[:-1].tolist(), bfloat16=False) | changes


def tile():  # rows of 3, 4 and 2 tokens, of which the second shares 2 with the first
    return (
        *(ints(1, 2, 3, 4, 5, 6, 7), ints(0, 3, 7, 9), ints(0, 1, 2, 0, 1, 3, 4, 5, 6), ints(0, 2, 0)),
        *(longs(2, 4, 6, 6), longs(1, 2, 3, 4), drawn(4)),
    )


def model():
    transformer = core.Transformer(**shape())
    parameters = drawn(sum((V * D, H * D, D)) + 2 * (2 * D + 4 * D * D + 3 * D + 3 * D * F)) / 8
    packed = np.zeros(transformer.packed_bytes, np.uint8)
    transformer.pack(parameters, packed, 1)
    return transformer, parameters, packed


def panel(n=5):
    return core.Panel32([drawn(n, 4), drawn(n, 3)], [np.zeros(4), np.zeros(3)], [1.0, 2.0], 1)


def trials(kind=-1.0, **changes):
    rule = dict(key=5, steps=3, block=0, noise=0, correlation=0.0, square=False, free=False, truncated=True, every=True)
    rule["given"] = False
    layers = [drawn(2, 16), drawn(16), drawn(16, 32), drawn(32), drawn(30, 16), drawn(16)]
    questions = drawn(4, 2).astype(np.float64), np.full(4, kind), np.full(2, 0.2)
    rule |= changes
    length = 3 if rule["free"] else 5
    into = floats(6, length, 9 + (not rule["free"])), floats(6, length, 4), floats(6, 2)
    return [rule, layers, *questions, 1, 6, *into, 2]


def recurrent_shape(**changes):
    sizes = [
        20 * 3,
        20 * 5,
        20,
        20,
        4 * 5,
        4,
    ]  # an LSTM of 5 units that reads vectors of 3 numbers and answers 4 questions
    offsets = np.cumsum([0, *sizes])[:-1].tolist()
    common = dict(inputs=3, hidden=5, layers=1, outputs=4, vectors=True, lstm=True, relu=False, bias=True)
    return common | dict(keep=0.0, share=1.0, loss=1, offsets=offsets) | changes


def recurrent_rows(**changes):  # rows of 3, 1 and 4 vectors, of which four are scored
    rows = dict(inputs=drawn(8, 3), row_start=ints(0, 3, 4, 8), scored=longs(1, 2, 3, 7), targets=drawn(4, 4))
    return tuple((rows | dict(weights=drawn(4), noise=None) | changes).values())


def walks():  # two chains of two states, the second of which is never left; of the second one some have new names
    whole = 2**53
    table = np.array([[[whole // 3, whole], [0, whole], [whole // 2, whole]]] * 2)
    return [
        5,
        table,
        longs(whole // 4, whole),
        3,
        longs(0, whole // 2),
        1,
        6,
        *(np.zeros(n, np.int32) for n in ((6, 5), 6, (6, 2))),
        2,
    ]


def calls():
    """Return {name: (function, arguments)}: all arguments by position but those of Transformer and Recurrent, which have
    names.
    """
    stream = core.Stream(*stream_arguments())
    native = core.Stream(*stream_arguments()[:3], [], stream_arguments()[4][:2], 2, 9)
    transformer, parameters, packed = model()
    network = core.Recurrent(**recurrent_shape())
    attended = [drawn(9, 2, 8, seed=n) for n in range(4)]
    long = [drawn(134, 2, 8, seed=n) for n in range(4)]
    cache = [drawn(6, 3, 2, 8), drawn(4, 8), np.array([[0, 1, 4, 9], [0, 2, 3, 5]], np.int32), ints(3, 4), ints(1, 1)]
    members = [drawn(5, 8), drawn(2, 8), [0, 3, 5]]
    state = [np.abs(drawn(2, 6, seed=n)) for n in range(4)]
    gram, products = core.GramOfGrams32(2, 10, True, [0.5, 1.0], [0.1, 0.1]), core.FeatureProducts32([4, 3])
    arrays, means = [drawn(5, 4), drawn(5, 3).astype(np.float64)], [np.zeros(4), np.zeros(3)]
    points = np.arange(12, dtype=np.int32).reshape(3, 2, 2)
    into = [np.zeros(3, np.int64), np.zeros(3, np.int64), 2, 0]
    return {
        "label": (core.label, [0, points, None, None, *into]),
        "label of cities": (core.label, [5, points[0], np.zeros((3, 3), np.int32) + ints(0, 1, -1), None, *into]),
        "label with counts": (core.label, [5, points, None, ints(2, 2, 2), *into]),
        "label of a given task": (core.label, [given(), points, None, None, *into]),
        "Stream": (core.Stream, stream_arguments()),
        "rectangle": (stream.rectangle, rows_of(stream.width, stream.cities_width)),
        "rectangle in tiles": (native.rectangle, [*rows_of(native.width, native.cities_width), True]),
        "packed": (stream.packed, packed_of(stream)),
        "packed in tiles": (native.packed, [*packed_of(native), True]),
        "packed_room": (stream.packed_room, [5]),
        "packed_scratch": (stream.packed_scratch, [5]),
        "attention_forward": (core.attention_forward, [*attended[:3], ints(0, 4, 4, 9), 1e4, floats(9, 2, 8), 2]),
        "attention_backward": (
            core.attention_backward,
            [*attended, ints(0, 4, 4, 9), 0.0, *(floats(9, 2, 8) for _ in range(3)), 2],
        ),
        "attention_forward of a long row": (
            core.attention_forward,
            [*long[:3], ints(0, 4, 134), 1e4, floats(134, 2, 8), 2],
        ),
        "attention_backward of a long row": (
            core.attention_backward,
            [*long, ints(0, 4, 134), 0.0, *(floats(134, 2, 8) for _ in range(3)), 2],
        ),
        "attention_cached": (core.attention_cached, [*cache, 4, floats(2, 2, 8), 2]),
        "Transformer": (lambda *fields: core.Transformer(**dict(zip(shape(), fields))), [*shape().values()]),
        "pack": (transformer.pack, [parameters, packed, 2]),
        "learn": (
            transformer.learn,
            [parameters, packed, tile(), np.zeros_like(parameters), floats(7, D), core.Arena(), 2],
        ),
        "read": (
            transformer.read,
            [parameters, packed, tile(), [0, 2], [floats(4, D), floats(4, D)], floats(4, H), core.Arena(), 2],
        ),
        "extend": (
            transformer.extend,
            [
                parameters,
                packed,
                ints(3, 4),
                floats(2, 6, 3 * D),
                drawn(4, 8),
                *cache[2:],
                4,
                ints(0, 0),
                core.Arena(),
                1,
            ],
        ),
        "Recurrent": (lambda *of: core.Recurrent(**dict(zip(recurrent_shape(), of))), [*recurrent_shape().values()]),
        "learn recurrent": (
            network.learn,
            [drawn(2, 224), [1, 0], [recurrent_rows(), recurrent_rows()], floats(2, 224), [core.Arena()]],
        ),
        "read recurrent": (
            network.read,
            [
                drawn(224),
                recurrent_rows(targets=None),
                [0, 1],
                [floats(4, 3), floats(4, 5)],
                floats(4, 4),
                core.Arena(),
            ],
        ),
        "extend, all logits": (
            transformer.extend,
            [
                parameters,
                packed,
                ints(3, 4),
                floats(2, 6, 3 * D),
                drawn(4, 8),
                *cache[2:],
                4,
                floats(2, H),
                core.Arena(),
                1,
            ],
        ),
        "linear": (core.linear, [drawn(5, 4), drawn(3, 4), floats(5, 3)]),
        "linear_gradient": (core.linear_gradient, [drawn(5, 3), drawn(5, 4), floats(3, 4)]),
        "rms_norm_forward": (core.rms_norm_forward, [*members, 1e-6, floats(5, 8), floats(5), 2]),
        "rms_norm_backward": (
            core.rms_norm_backward,
            [drawn(5, 8), *members[:2], drawn(5), members[2], floats(5, 8), floats(2, 8), 2],
        ),
        "swiglu_forward": (core.swiglu_forward, [drawn(5, 8), floats(5, 4), 2]),
        "swiglu_backward": (core.swiglu_backward, [drawn(5, 4), drawn(5, 8), floats(5, 8), floats(5, 4), 2]),
        "cross_entropy": (
            core.cross_entropy,
            [drawn(3, 5), longs(0, 1, 2, 4), longs(0, 4, 2, 2), drawn(4), floats(3, 5), 2],
        ),
        "adamw": (core.adamw, [*state, drawn(6), [0, 1], [0.1, 0.2], [1, 2], 0.1, 0.9, 0.99, 1e-8, [1.0, 1.0], 2]),
        "gather_gradient": (
            core.gather_gradient,
            [[drawn(40), drawn(40, seed=1)], 24, ints(0, 2, 1), drawn(3, 8), floats(3, 8)],
        ),
        "gradient_norm": (core.gradient_norm, [drawn(2, 6), [0, 1], 2]),
        "trials": (core.trials, trials()),
        "trials of products": (core.trials, trials(0.1, noise=2, correlation=0.5)),
        "trials of points": (core.trials, trials(given=True, correlation=0.5)),
        "trials at free times": (core.trials, trials(free=True, noise=1, square=True)),
        "walks": (core.walks, walks()),
        "limit_vector_width": (core.limit_vector_width, [core.vector_width()]),
        "add_columns": (core.add_columns, [arrays, means, [np.zeros(4), np.zeros(3)], 2]),
        "Panel32": (core.Panel32, [arrays, means, [1.0, 2.0], 2]),
        "Panel64": (core.Panel64, [arrays, means, [1.0, 2.0], 2]),
        "GramOfGrams32": (core.GramOfGrams32, [2, 10, True, [0.5, 1.0], [0.1, 0.1]]),
        "GramOfGrams64": (core.GramOfGrams64, [2, 10, False, None, []]),
        "GramOfGrams32.add": (gram.add, [panel(), 0, panel(), 5, 2]),
        "FeatureProducts32": (core.FeatureProducts32, [[4, 3]]),
        "FeatureProducts64": (core.FeatureProducts64, [[4, 3]]),
        "FeatureProducts32.add": (products.add, [arrays, means, [1.0, 2.0], 2]),
        "median_distances": (core.median_distances, [panel(), 2]),
        "linear of Gram of Grams": (gram.linear, []),
        "rbf of Gram of Grams": (gram.rbf, []),
        "linear of products": (products.linear, []),
    }


# ---- what may be put in place of an argument ----


def in_place_of(value):
    """Yield (words, value) of everything that may be put in place of an argument."""
    if isinstance(value, np.ndarray):
        yield from arrays_in_place_of(value)
    elif isinstance(value, dict):
        for key in value:
            yield f"without {key}", {name: one for name, one in value.items() if name != key}
            for words, one in in_place_of(value[key]):
                yield f"{key}: {words}", value | {key: one}
    elif isinstance(value, list | tuple):
        yield from (
            ("None", None),
            ("empty", type(value)()),
            ("shorter", value[:-1]),
            ("longer", (*value, *value[-1:])),
        )
        yield "many", [*value] * 9
        for at, item in enumerate(value):
            for words, one in in_place_of(item):
                yield f"[{at}] {words}", type(value)((*value[:at], one, *value[at + 1 :]))
    elif callable(value) and not isinstance(value, type):
        yield from (("None", None), ("does nothing", lambda *_: None), ("raises", lambda *_: 1 / 0))
        yield (
            "writes what is no answer",
            lambda points, labels, count: labels.__setitem__(slice(None), b"\x77" * len(labels)),
        )
    else:
        for number in NUMBERS:
            yield repr(number), number


def arrays_in_place_of(x):
    yield from ((repr(one), one) for one in (None, 3, "x", [1, 2], b"12345678"))
    yield "a number", x.dtype.type(1)
    yield "0-d", np.zeros((), x.dtype)
    yield from (("flat", x.ravel()), ("one more axis", x[None]), ("nothing", x[:0]), ("one axis less", x[0]))
    for dtype in DTYPES:
        yield dtype, np.zeros(x.shape, dtype)
    for axis in range(x.ndim):
        yield f"short along {axis}", np.ascontiguousarray(np.delete(x, -1, axis))
        yield f"long along {axis}", np.concatenate([x, x], axis)
        yield f"empty along {axis}", np.zeros([0 if a == axis else n for a, n in enumerate(x.shape)], x.dtype)
    yield "gaps", np.repeat(x, 2, 0)[::2]
    yield "backwards", np.flip(x.copy())
    yield "in the other order", np.asfortranarray(x)
    yield "one element again and again", np.lib.stride_tricks.as_strided(x.copy(), x.shape, [0] * x.ndim)
    yield "a huge one of one element", np.broadcast_to(x.ravel()[:1].reshape([1] * x.ndim), [2**14, *x.shape[1:]])
    readonly = x.copy()
    readonly.flags.writeable = False
    yield "read-only", readonly
    memory = np.zeros(x.nbytes + 1, np.uint8)
    yield "between two addresses", memory[1:].view(x.dtype).reshape(x.shape)
    for fill in FILLS:
        with np.errstate(invalid="ignore"):
            yield f"all {fill}", np.full(x.shape, fill).astype(x.dtype)
    for at in (0, -1):
        for fill in FILLS[:7]:
            changed = x.copy()
            changed.flat[at] = np.array(fill).astype(x.dtype)
            yield f"{fill} at {at}", changed
