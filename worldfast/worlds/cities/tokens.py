"""The two vocabularies: text to token ids and back.

"character" has 98 tokens: <pad> 0, <unk> 1, <bos> 2, <eos> 3, then printable ASCII with the digits at the end. "entity"
has the same, and one token for each city instead of its six characters c_dddd: 98 + the city's index.
"""

import re

import numpy as np

from worldfast.arrays import integers
from worldfast.errors import one_of, typed
from worldfast.worlds.cities.world import World

__all__ = ["BOS", "CHARACTERS", "EOS", "PAD", "UNK", "VOCABULARIES", "Vocabulary"]

PAD, UNK, BOS, EOS = range(4)
CHARACTERS = "!\"#$%&'()*+,-./:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~0123456789"
VOCABULARIES = ("character", "entity")

_SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
_CITY = re.compile(r"c_\d{4}")


class Vocabulary:
    """Token ids of a world's text.

    Parameters
    ----------
    name : {"character", "entity"}
    world : World

    Attributes
    ----------
    names : list of str
        Text of each token, in the order of ids.
    size : int
        Number of tokens.
    characters : int
        Number of tokens that are not cities, 98.

    Examples
    --------
    >>> vocabulary = cities.Vocabulary("entity", wf.World.cities())
    >>> ids = vocabulary.encode("dist(c_8132,")
    >>> len(ids), vocabulary.decode(ids)
    (7, 'dist(c_8132,')
    """

    characters = len(_SPECIAL) + len(CHARACTERS)

    def __init__(self, name, world):
        one_of("vocabulary", name, VOCABULARIES)
        typed("world", world, World, "a World")
        self.name = name
        self.names = [*_SPECIAL, *CHARACTERS]
        if name == "entity":
            self.names += [f"c_{city_id:04d}" for city_id in world.city_id]
        self._ids = {text: i for i, text in enumerate(self.names)}
        self._city_id = world.city_id
        self.size = len(self.names)

    def encode(self, text):
        """Return the token ids of a text, without <bos> and <eos>; a character outside the vocabulary is <unk>."""
        ids, at = [], 0
        while at < len(text):
            city = _CITY.match(text, at) if self.name == "entity" else None
            piece = city.group() if city and city.group() in self._ids else text[at]
            ids.append(self._ids.get(piece, UNK))
            at += len(piece)
        return ids

    def decode(self, ids):
        """Return the text of token ids.

        <pad>, <bos> and <eos> are dropped.

        Raises
        ------
        TypeError
            The ids are not integers, or masked.
        ValueError
            An id is outside the vocabulary.
        """
        pieces = []
        for i in integers(ids, "ids").tolist():
            if not 0 <= i < self.size:
                raise ValueError(f"token id {i} is outside the {self.name} vocabulary of {self.size}")
            if i not in (PAD, BOS, EOS):
                pieces.append(self.names[i])
        return "".join(pieces)

    def city_tokens(self, index):
        """Return the token ids of the city with this index in the world: six, or one in the entity vocabulary.

        Raises
        ------
        IndexError
            The index is outside the world.
        """
        if not 0 <= index < len(self._city_id):
            raise IndexError(f"city index {index} is outside 0..{len(self._city_id) - 1}")
        return self.encode(f"c_{self._city_id[index]:04d}")

    def tokens_of(self, indices):
        """Return the token ids of many cities: int32 [n, 6], or [n, 1] in the entity vocabulary."""
        indices = integers(indices, "cities")
        if self.name == "entity":
            return (self.characters + indices).astype(np.int32)[:, None]
        digits = self._city_id[indices][:, None] // np.array([1000, 100, 10, 1]) % 10
        names = np.empty((len(digits), 6), dtype=np.int32)
        names[:, :2] = self.encode("c_")
        names[:, 2:] = self._ids["0"] + digits
        return names
