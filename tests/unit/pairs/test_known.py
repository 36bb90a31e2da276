"""Known positives and their copies against a search through all pairs, judgements and documents."""

import numpy as np
import pyarrow as pa
from corpus_tables import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from components.corpus.schema import PAIRS, conform, passage
from components.corpus.words import normalise
from components.pairs.known import Documents, KnownPositives
from components.pairs.pair_index import index_pairs, read_documents
from components.pairs.profiles import HASHES, profile_texts
from components.search.shards import write_tables
from components.storage import Folder

TEXTS = ["one two", "One  TWO", "three", "four one two", "\N{FULLWIDTH DIGIT ONE}", "1"]
text = st.sampled_from(TEXTS)
query_id = st.sampled_from(["q0", "q1", "q2"])
document_id = st.sampled_from(["d0", "d1", "d2", "d3", "gone"])


def expected(documents, pairs, queries, judgements, wanted_id, wanted_text):
    """Rows of the positives and of the copies, by the rule in words."""

    def is_it(key, words):
        return key == wanted_id or (words is not None and normalise(words) == normalise(wanted_text))

    mine = [pair for pair in pairs if is_it(pair["query_id"], pair["query"])]
    ids = {pair["positive_id"] for pair in mine}
    ids |= {document for query, document in judgements if is_it(query, dict(queries).get(query))}
    forms = {normalise(pair["positive"]) for pair in mine}
    positives = {row for row, key in enumerate(documents) if key in ids}
    for row, (title, body) in enumerate(documents.values()):
        if row in positives:
            forms |= {normalise(body), normalise(passage(title, body))}
    same = {
        row
        for row, (title, body) in enumerate(documents.values())
        if forms & {normalise(body), normalise(passage(title, body))}
    }
    return positives, same - positives


@settings(max_examples=40)
@given(
    bodies=st.lists(st.tuples(st.one_of(st.none(), text), text), min_size=1, max_size=4),
    pairs=st.lists(st.tuples(query_id, text, document_id, text), min_size=1, max_size=5),
    judgements=st.lists(st.tuples(query_id, document_id), max_size=3),
)
def test_equals_a_search_through_everything(tmp_path_factory, bodies, pairs, judgements):
    root = Folder(str(tmp_path_factory.mktemp("known")))
    documents = {f"d{row}": body for row, body in enumerate(bodies)}
    queries = [("q0", TEXTS[0]), ("q2", TEXTS[2])]
    rows = [
        {
            "pair_id": f"p{row}",
            "query_id": key,
            "query": query,
            "positive_id": positive_id,
            "positive": positive,
            "task": "retrieval",
            "language": "en",
            "origin": "labelled",
        }
        for row, (key, query, positive_id, positive) in enumerate(pairs)
    ]
    write_corpus(root / "train", documents, queries, [(*found, "train") for found in judgements])
    (root / "pairs").write_table("pairs.parquet", conform(pa.Table.from_pylist(rows), PAIRS))
    corpus = write_tables(read_documents(root), root / "texts", 2)
    profiles = profile_texts(corpus, root / "profiles", 1)
    hashes = pa.concat_tables([profiles.read(shard) for shard in range(len(profiles))])
    index = Documents(**{f"{name}_M": hashes[name].to_numpy() for name in HASHES})
    table = index_pairs(root / "pairs", root / "train", index, root, 2, 2, False)

    known = KnownPositives(index, table.answers).of(table.id_U, table.text_U)

    for row, given_pair in enumerate(rows):
        mine = known.query_B == table.query_N[row]
        positives, copies = expected(
            documents, rows, queries, judgements, given_pair["query_id"], given_pair["query"]
        )
        assert set(known.row_B[mine & ~known.copy_B]) == positives
        assert set(known.row_B[mine & known.copy_B]) == copies
        reference = table.positive_N[row]
        texts = corpus if reference >= 0 else table.outside
        number = np.array([reference if reference >= 0 else -1 - reference])
        assert texts.take(number, ["text"])["text"].to_pylist() == [given_pair["positive"]]
        assert reference in known.reference_R[known.query_R == table.query_N[row]]
