"""In which language each document is written, by lingua."""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from lingua import Language, LanguageDetector, LanguageDetectorBuilder

from components.corpus.rewriting import Rewritten, rejected_rows, rewrite_documents
from components.corpus.schema import DOCUMENTS, passage
from components.corpus.words import UNSPACED_CHARACTER
from components.monitor import Monitor
from components.storage import Folder

UNDETERMINED = ("too_short", "uncertain")
UNSPACED_LETTERS = 4
"""As much as a character says where words are not parted: about a short word."""


def identify_languages(
    *,
    documents: Folder,
    keep: Sequence[str] | None,
    candidates: Sequence[str] | None,
    stated: Literal["replace", "check"],
    undetermined: Literal["keep_stated", "reject"],
    min_letters: int,
    confidence: float,
    accuracy: Literal["low", "high"],
    sample_characters: int,
    output: Folder,
    monitor: Monitor,
    num_workers: int = 2,
) -> dict[str, float]:
    """Fill `language` with the ISO 639-1 code that is detected, and keep the documents in the languages wanted.

    What a document's language is detected to be is one of three: a language; `too_short` (fewer than `min_letters`
    letters); `uncertain` (the best language's probability is below `confidence`).

    Args:
        documents: folder with documents.parquet, and queries.parquet and qrels.parquet if it has any.
        keep: the languages that are wanted; None: all of the candidates.
        candidates: the languages that are told apart; None: all 75 of lingua. With few it is several times as fast; a
            text in a language that is not among them is taken for one of them, or is uncertain.
        stated: what a language that the document states already counts. `replace`: nothing, where one is detected.
            `check`: if the two differ, the document is rejected (`stated_otherwise`).
        undetermined: where no language is detected. `keep_stated`: the one that the document states stands;
            without one it is rejected. `reject`: it is rejected (`too_short` or `uncertain`).
        min_letters: letters of any script; a character of one that is written without spaces counts as four.
        confidence: probability, in [0, 1].
        accuracy: lingua's models; `high` helps with texts of less than 120 characters and takes 1.1 GB a worker for
            all languages, `low` 0.3 GB.
        sample_characters: so much of title and text is looked at.
        num_workers: a CPU each.

    Returns:
        rows_in, rows_out, detected, too_short and uncertain (rows by outcome), kept_<language>,
        rejected_<reason> (`other_language`, `stated_otherwise`, `too_short`, `uncertain`), rows_per_second;
        queries and qrels as in `carry_judgements`.

    Raises:
        ValueError: a code that is no language of lingua's, a setting out of range, or no document is kept.
    """
    if not 0 <= confidence <= 1:
        raise ValueError(f"`confidence` is {confidence}; it is a probability, between 0 and 1")
    if sample_characters < 1:
        raise ValueError(f"`sample_characters` is {sample_characters}; it must be at least 1")
    known = _languages(candidates, "candidates")
    if len(known) < 2:
        raise ValueError(f"`candidates` is {candidates}; at least two languages are needed to tell apart")
    wanted = known.keys() if keep is None else _languages(keep, "keep").keys()
    if missing := sorted(wanted - known.keys()):
        raise ValueError(
            f"`keep` names {', '.join(missing)}, which `candidates` does not; no text could be that"
        )

    def prepare() -> Callable[[pa.Table], Rewritten]:
        detector = _detector(list(known.values()), accuracy)

        def rewrite(batch: pa.Table) -> Rewritten:
            titles, texts, stated_B = (batch[name].to_pylist() for name in ("title", "text", "language"))
            samples = [
                passage(title[:sample_characters] if title else None, text[:sample_characters])[
                    :sample_characters
                ]
                for title, text in zip(titles, texts, strict=True)
            ]
            outcomes = _detect(detector, samples, min_letters, confidence)
            return _sorted_out(batch, stated_B, outcomes, wanted, stated, undetermined)

        return rewrite

    numbers = rewrite_documents(documents, output, prepare, num_workers, "identify languages", monitor)
    numbers = dict.fromkeys(("detected", "too_short", "uncertain"), 0.0) | numbers
    monitor.metrics(numbers)
    return numbers


def detect_languages(
    texts: Sequence[str], min_letters: int = 20, confidence: float = 0.5
) -> list[str | None]:
    """The ISO 639-1 code of each text, among all languages of lingua; None where it is too short or uncertain."""
    detector = _detector(list(_languages(None, "").values()), "low")
    found = _detect(detector, texts, min_letters, confidence)
    return [None if outcome in UNDETERMINED else outcome for outcome, _ in found]


def language_code(stated: str) -> str:
    """The ISO 639-1 part of a tag: `en` of `en-US`, `zh` of `ZH_Hant`."""
    return stated.strip().lower().replace("_", "-").partition("-")[0]


def _languages(codes: Sequence[str] | None, field: str) -> dict[str, Language]:
    everything = {language.iso_code_639_1.name.lower(): language for language in Language.all()}
    if codes is None:
        return everything
    if unknown := [code for code in codes if code not in everything]:
        raise ValueError(
            f"`{field}` names {', '.join(unknown)}; languages are ISO 639-1 codes that lingua knows, as "
            f"{', '.join(sorted(everything))}"
        )
    return {code: everything[code] for code in codes}


def _detector(languages: Sequence[Language], accuracy: str) -> LanguageDetector:
    builder = LanguageDetectorBuilder.from_languages(*languages)
    return (builder.with_low_accuracy_mode() if accuracy == "low" else builder).build()


def _detect(
    detector: LanguageDetector, samples: Sequence[str], min_letters: int, confidence: float
) -> list[tuple[str, str]]:
    """For each text a code and the probability as text, or `too_short` or `uncertain` and what is known."""
    letters = [
        sum(map(str.isalpha, sample)) + (UNSPACED_LETTERS - 1) * len(UNSPACED_CHARACTER.findall(sample))
        for sample in samples
    ]
    found: list[tuple[str, str]] = [("too_short", f"{count} letters") for count in letters]
    long = [row for row, count in enumerate(letters) if count >= max(1, min_letters)]
    ranked = detector.compute_language_confidence_values_in_parallel([samples[row] for row in long])
    for row, values in zip(long, ranked, strict=True):
        best = values[0]
        code = best.language.iso_code_639_1.name.lower()
        detail = f"{code} {best.value:.2f}"
        found[row] = (code, detail) if best.value >= confidence else ("uncertain", detail)
    return found


def _sorted_out(
    batch: pa.Table,
    stated_B: Sequence[str],
    outcomes: Sequence[tuple[str, str]],
    wanted: Container[str],
    stated_is: str,
    undetermined: str,
) -> Rewritten:
    languages: list[str] = []
    reasons: list[str] = []
    for tag, (outcome, _) in zip(stated_B, outcomes, strict=True):
        stated, detected = language_code(tag), outcome not in UNDETERMINED
        language = outcome if detected else stated
        if not detected and (undetermined == "reject" or not stated):
            reason = outcome
        elif detected and stated_is == "check" and stated and stated != outcome:
            reason = "stated_otherwise"
        elif language not in wanted:
            reason = "other_language"
        else:
            reason = ""
        languages.append(language)
        reasons.append(reason)

    is_kept = pa.array([not reason for reason in reasons], pa.bool_())
    at = DOCUMENTS.get_field_index("language")
    kept = batch.set_column(at, DOCUMENTS.field("language"), pa.array(languages, pa.string())).filter(is_kept)
    rejected = batch.filter(pc.invert(is_kept))
    why = [(reason, detail) for reason, (_, detail) in zip(reasons, outcomes, strict=True) if reason]
    counts = Counter(outcome if outcome in UNDETERMINED else "detected" for outcome, _ in outcomes)
    counts.update(f"kept_{language}" for language in kept["language"].to_pylist())
    return Rewritten(
        kept=kept,
        rejected=rejected_rows(rejected, [reason for reason, _ in why], [detail for _, detail in why]),
        moved={document_id: [] for document_id in rejected["document_id"].to_pylist()},
        counts=counts,
    )
