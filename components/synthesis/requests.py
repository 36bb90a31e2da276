"""What is asked for each document: a batch of documents becomes a batch of requests."""

from typing import Any

import pyarrow as pa

from components.corpus.schema import passage as document_text
from components.synthesis.answers import REQUESTS, Finished
from components.synthesis.draws import Draws, draw, draw_length, is_kept, row_seed
from components.synthesis.prompts import Prompts
from components.synthesis.sentences import draw_sentence


def make_requests(
    documents: pa.Table,
    prompts: Prompts,
    draws: Draws,
    rates: dict[str, float],
    finished: Finished,
    passage_characters: int,
    seed: int,
) -> pa.Table:
    """Rows of REQUESTS, `characters` still empty, for the documents that are used and not finished.

    Args:
        documents: with `document_id, title, text, language`.
        rates: the share of the documents of each language that is used.
    """
    rows = []
    columns = (documents.column(name).to_pylist() for name in ("document_id", "title", "text", "language"))
    for document_id, title, text, language in zip(*columns, strict=True):
        if not is_kept(document_id, seed, rates.get(language, 0.0)) or document_id in finished:
            continue
        request = {
            "document_id": document_id,
            "family": draw("family", document_id, seed, draws.families),
            "text": document_text(title, text),
            "passage": " ".join(document_text(title, text[: 4 * passage_characters]).split())[
                :passage_characters
            ],
            "language": language,
            "asked_language": language,
            "question_type": "",
            "difficulty": "",
            "length": 0,
            "request_seed": row_seed(document_id, seed),
            "characters": [],
            "fault": "",
        }
        _fill(request, text, prompts, draws, seed)
        rows.append(request)
    return pa.Table.from_pylist(rows, schema=REQUESTS)


def _fill(request: dict[str, Any], text: str, prompts: Prompts, draws: Draws, seed: int) -> None:
    """What the family asks for; a document that it can ask nothing about gets its fault."""
    row_id, family, language = request["document_id"], request["family"], request["language"]
    match family:
        case "retrieval":
            request["length"] = draw_length(row_id, seed, draws.length_words)
            for field, shares in (
                ("question_type", draws.question_types),
                ("difficulty", draws.difficulties),
            ):
                if shares:
                    request[field] = draw(field, row_id, seed, shares)
            if draws.query_languages:
                request["asked_language"] = draw("query language", row_id, seed, draws.query_languages)
        case "bitext_mining":
            others = {
                code: share for code, share in (draws.translation_languages or {}).items() if code != language
            }
            if not others:
                request["fault"] = "no_other_language"
                return
            request["asked_language"] = draw("translation language", row_id, seed, others)
        case "sts":
            request["question_type"] = draw("similarity", row_id, seed, draws.similarities)
        case "classification":
            aspects = draws.aspects or dict.fromkeys(prompts.classification.aspects, 1.0)
            request["question_type"] = draw("aspect", row_id, seed, aspects)
    named = {request["asked_language"]} if family == "retrieval" else {language, request["asked_language"]}
    if not named <= set(prompts.languages):
        request["fault"] = "language_without_name"
    elif not request["passage"]:
        request["fault"] = "empty_document"
    elif family in ("bitext_mining", "sts"):
        sentence = draw_sentence(text, row_id, seed)
        if sentence is None:
            request["fault"] = "no_sentence"
        request["text"] = request["passage"] = sentence or ""
    elif family == "classification":
        request["text"] = request["passage"]
