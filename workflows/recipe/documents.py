"""Documents: where they come from, what is done to them, what is held out."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from components.corpus.formats import Column
from workflows.recipe.section import Count, FilePath, Section, Share, Whole


class Documents(Section):
    """Where the documents come from."""

    sources: Annotated[list[FilePath], Field(min_length=1)]
    """Tables (*.jsonl, *.csv, *.tsv, *.parquet) and folders of them, a BEIR folder, pages (*.md, *.html, *.txt, *.rst)
    and trees of them, or docstrings://library,library. Paths are relative to the recipe file."""
    columns: dict[Column, str | None] = {}
    """Which field of a row holds what, where it is not called so; null: none does. Without an id it is a hash of the
    content."""
    language: str = "en"
    """ISO 639-1 code of documents that do not say."""
    min_characters: Whole = 1
    """A shorter text is turned away."""
    max_characters: Count = 1_000_000
    """A longer text is turned away."""

    @field_validator("columns")
    @classmethod
    def _has_a_text(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        if columns.get("text", "text") is None:
            raise ValueError("`text` is null; a document is its text")
        return columns


class Languages(Section):
    """Documents are told by language, and those in other languages are turned away."""

    keep: list[str] | None = None
    """ISO 639-1 codes; null: every language that can be told."""
    candidates: list[str] | None = None
    """The languages that are told apart; null: all 75. Few are several times as fast."""
    stated: Literal["replace", "check"] = "replace"
    """`check`: a document whose own statement differs is turned away."""
    undetermined: Literal["keep_stated", "reject"] = "keep_stated"
    """What becomes of a document that is too short or uncertain."""
    min_letters: Count = 20
    """A text with fewer is too short to be told."""
    confidence: Share = 0.5
    """Probability of the best language below which a document counts as uncertain."""
    accuracy: Literal["low", "high"] = "low"
    """`high` helps with texts of less than 120 characters and takes several times the memory."""
    sample_characters: Count = 2000
    """So much of title and text is looked at."""


class KnownItems(Section):
    """Documents without labelled queries give some of their own to be judged by: a part of each is what is asked, and
    the rest is its answer (known-item search)."""

    query: Literal["title", "first_sentence"] = "title"
    """The part that is taken out of the document."""
    max_documents: Count = 3
    """What more documents than that have in common is no query."""


class Chunks(Section):
    """Documents that are too long for the model are cut."""

    max_tokens: Count = 512
    """Of title and text, with the base model's tokenizer."""
    overlap_tokens: Whole = 0
    """About so many tokens of a piece stand at the beginning of the next one too."""


class Contamination(Section):
    """What overlaps an evaluation set is turned away (word n-grams, as in GPT-3)."""

    evaluation_sets: list[FilePath] = []
    """BEIR folders, `#SPLIT` behind one for the queries of a split. Paths are relative to the recipe file."""
    parts: Annotated[list[Literal["queries", "relevant", "corpus"]], Field(min_length=1)] = [
        "queries",
        "relevant",
    ]
    """Of a set: its queries, the documents relevant to one, or every document."""
    ngram: Count = 13
    """Words."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the n-grams of the shorter text, so many are shared."""


class Duplicates(Section):
    """When two documents count as copies of one another: those never stand on both sides of the split."""

    threshold: Share = 0.8
    """Estimated Jaccard similarity of word n-grams."""
    num_permutations: Count = 64
    """Of MinHash: more tell similarities more exactly, at as many bytes times four a document."""
    ngram: Count = 5
    """Words."""
    seed: int = 0
    """Of the permutations."""
    remove: bool = False
    """Of every group of copies only one document stays, in the evaluation set too."""


class Split(Section):
    """Which documents are held out to evaluate on, and how many are used for what."""

    evaluation_documents: Count = 3000
    """The corpus that is searched when models are judged, where sources have no written split."""
    evaluation_queries: Count = 500
    """Held out: neither they nor near-copies of their documents are trained on."""
    training_documents: Count | None = None
    """At most so many; null: all that are left."""
    synthesis_documents: Whole = 150
    """Of the training documents, those that queries are written for."""
    evaluation_split: str | None = None
    """For sources with written splits (BEIR): the split to evaluate on, over the whole corpus."""
    seed: int = 0
    """Of the order by which documents and queries are drawn."""
