"""Sets that every model of a recipe is judged on, beside search for its own held-out queries."""

from typing import Annotated, Literal

from pydantic import Field

from workflows.recipe.section import Count, FilePath, Section, Whole


class _OnSet(Section):
    data: FilePath
    """A folder; a path is relative to the recipe file."""
    instruction: str | None = None
    """In place of the model's own."""


class Retrieval(_OnSet):
    """Search: nDCG@10. `data` is in BEIR's layout."""

    kind: Literal["retrieval"]
    split: str = "test"
    """Which qrels."""


class _OfRows(_OnSet):
    file: str = "test.jsonl"
    """JSON lines in the folder."""
    side: Literal["query", "document"] = "query"
    """Whose template the texts take."""


class Similarity(_OfRows):
    """Do cosines rank sentence pairs as people did? Spearman. Rows: sentence1, sentence2, score."""

    kind: Literal["similarity"]


class PairClassification(_OfRows):
    """Are pairs of label 1 told from those of label 0? Average precision. Rows: text1, text2, label."""

    kind: Literal["pair-classification"]


class Classification(_OfRows):
    """Does a linear probe on few rows of each label tell it? Accuracy. Rows: text, label."""

    kind: Literal["classification"]
    train_file: str = "train.jsonl"
    """What probes are fitted to; the same as `file`: half of each label's rows."""
    per_label: Count = 8
    """Rows of each label that a probe is fitted to."""
    experiments: Count = 10
    """Probes, each on other rows; their mean counts."""
    seed: Whole = 42
    """Of the rows that are drawn."""


class Clustering(_OfRows):
    """Does k-means find the labels again? V-measure. Rows: text, label."""

    kind: Literal["clustering"]
    experiments: Count = 3
    """Runs of k-means; their mean counts."""
    seed: Whole = 42
    """Of k-means."""


class Bitext(_OfRows):
    """Is the nearest sentence of the other language the translation? F1. Rows: sentence1, sentence2."""

    kind: Literal["bitext"]


OnSet = Annotated[
    Retrieval | Similarity | PairClassification | Classification | Clustering | Bitext,
    Field(discriminator="kind"),
]
