"""Writes small corpora in the layout of `read_documents` and `group_duplicates`."""

import pyarrow as pa

from components.corpus.duplicates import GROUPS
from components.corpus.schema import DOCUMENTS, QRELS, QUERIES


def write_corpus(folder, documents, queries=(), qrels=()):
    """documents: id -> (title, text); queries: (id, text); qrels: (query id, document id, split)."""
    rows = [
        {"document_id": key, "text": text, "title": title, "language": "en", "source": "test"}
        for key, (title, text) in documents.items()
    ]
    folder.write_table("documents.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS))
    rows = [{"query_id": key, "text": text} for key, text in queries]
    folder.write_table("queries.parquet", pa.Table.from_pylist(rows, schema=QUERIES))
    rows = [{"query_id": q, "document_id": d, "score": 1, "split": split} for q, d, split in qrels]
    folder.write_table("qrels.parquet", pa.Table.from_pylist(rows, schema=QRELS))
    return folder


def write_groups(folder, group_of):
    """group_of: document id -> group id, a member's id."""
    rows = [
        {"document_id": key, "group_id": group, "is_duplicate": key != group}
        for key, group in group_of.items()
    ]
    folder.write_table("groups.parquet", pa.Table.from_pylist(rows, schema=GROUPS))
    return folder
