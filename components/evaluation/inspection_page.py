"""The page of what a run left behind."""

from collections.abc import Sequence

from components.evaluation.funnel import Passed
from components.evaluation.inspection import KINDS, TEXTS, Section
from components.evaluation.page import template

_FILTERED = ("reason", "language", "origin")
_LABELS = {"positive": "answer", "text": "document", "relevant": "relevant", "instead": "first instead"}
_LEFT_OUT = {*TEXTS, "negatives", "negative_ids", *_FILTERED}


def inspection_page(heading: str, note: str, funnel: Sequence[Passed], sections: Sequence[Section]) -> str:
    """One HTML page that loads nothing: what each step let through, then the rows of each section.

    Rows can be narrowed on the page by the reasons, languages and origins that occur in them.

    Args:
        heading: what is shown.
        note: when and how it came to be.
    """
    values = {
        name: sorted({str(row[name]) for section in sections for row in section.rows if name in row})
        for name in _FILTERED
    }
    return template("inspection.html").render(
        heading=heading,
        note=note,
        funnel=funnel,
        sections=sections,
        kinds=KINDS,
        texts=TEXTS,
        labels=_LABELS,
        left_out=_LEFT_OUT,
        filters={name: found for name, found in values.items() if len(found) > 1},
        filtered=_FILTERED,
    )
