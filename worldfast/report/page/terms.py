"""Terms of the page, defined in each section in which one stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape, unescape

from worldfast.studies import Scene

TERMS = {  # as they stand in captions and findings -> what they mean; {many}: the world's entities
    "linear probe": "a linear map from a model’s activations to attributes of the {many}, fitted by least squares.",
    "held out": "{many} that the probe was not fitted on: errors and R² are over these.",
    "R²": "share of the variance that is predicted: 1 is all of it, 0 no more than the mean predicts.",
    "CKA": "centred kernel alignment of two models’ activations over the same {many}: 1 is the same arrangement up to "
    "rotation and scale, 0 nothing in common. Debiased: less what models that are not related would share.",
    "Procrustes": "what is left of the distance between two arrangements once one is turned, mirrored and scaled onto "
    "the other: 0 is the same.",
    "nearest neighbours": "the {many} whose activations are closest to those of one of them.",
    "participation ratio": "number of directions along which activations vary, if all varied alike.",
    "TwoNN": "an estimate of the number of directions from the distances to the two nearest neighbours.",
    "standard error": "how far a mean would stray if all were repeated; what was repeated is said beside it.",
    "jackknife": "a standard error from means that leave one run out at a time.",
    "recovered share": "of the way from the target’s answers (0) to the source’s (1), once states are exchanged.",
}
SPELLINGS = {"held out": "held[- ]out", "R²": "R²", "CKA": "CKA", "nearest neighbours": "nearest"}


def glossary(markup: str, world: Scene) -> str:
    """Return the definitions of the terms that stand in a section, as HTML; "" if there are none.

    Parameters
    ----------
    markup : str
        HTML of the section.
    world : Scene
        Its own terms come first.
    """
    text = unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<svg\b.*?</svg>", " ", markup)))
    terms: Mapping[str, str] = {**world.terms, **TERMS}
    found = [term for term in terms if re.search(SPELLINGS.get(term, re.escape(term)), text, re.IGNORECASE)]
    if not found:
        return ""
    lines = "".join(
        f"<dt>{escape(term[:1].upper() + term[1:])}</dt><dd>{escape(terms[term].replace('{many}', world.many))}</dd>"
        for term in found
    )
    return f"<dl class=terms>{lines}</dl>"
