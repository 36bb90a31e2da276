"""Groups of documents that are copies or near-copies; one document of each group can be kept.

Texts become numbers on Ray Data; those are linked in this process, which holds some 50 bytes a document at its peak
beside what is on disk (4 bytes a permutation and 8 a band), and some 200 a group of two or more.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.corpus.digests import digests, find
from components.corpus.linking import Components, link_alike
from components.corpus.rewriting import Rewritten, refuse_repeated_ids, rejected_rows, rewrite_documents
from components.corpus.schema import passage
from components.corpus.signatures import Bands, band_keys, choose_bands, hash_rows, sign
from components.corpus.tables import Piece, TableWriter, count_rows, pieces_of, read_batches, read_piece
from components.corpus.words import normalise
from components.corpus.workers import over_pieces
from components.monitor import Monitor
from components.storage import Folder

GROUPS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("is_duplicate", pa.bool_(), nullable=False),
    ]
)


def group_duplicates(
    *,
    documents: Folder,
    threshold: float,
    num_permutations: int,
    ngram: int,
    seed: int,
    output: Folder,
    monitor: Monitor,
    num_workers: int = 2,
) -> dict[str, float]:
    """Write groups.parquet: for each document its group, and whether it is a copy of another member.

    Two documents are linked if their normalised texts (NFKC, lower case, white space folded; titles aside)
    are equal, or if MinHash (Broder 1997) estimates the Jaccard similarity of their sets of word n-grams
    (title and text) at `threshold` or above. Locality-sensitive hashing finds the candidates; each is
    verified with the full signatures. A group is a connected component of these links, named by its smallest
    document id. So groups depend on the documents alone, not on their order or on the number of workers.

    Args:
        documents: folder with documents.parquet, one file or a folder of shards.
        threshold: Jaccard similarity in (0, 1] from which two documents are near-copies.
        num_permutations: length of a signature; the estimate's standard error is below 0.5 / sqrt(length).
        ngram: words in a shingle.
        seed: of the permutations.
        num_workers: that compute signatures, a CPU each.

    Returns:
        documents, groups, links_exact and links_near (by how many there are fewer groups than documents because of
        equal texts, and because of near-copies beyond those), duplicates (documents that are not the first of
        their group), largest_group and rows_per_second.

    Raises:
        ValueError: the threshold is not in (0, 1], the signatures are too short for it, there is no document, or two
            have one id.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is {threshold}; a Jaccard similarity lies above 0 and at most at 1")
    bands = choose_bands(threshold, num_permutations)
    rows = count_rows(documents, "documents.parquet")
    if not rows:
        raise ValueError(f"documents.parquet in {documents.uri} holds no document")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="embedloom-duplicates-") as scratch:
        columns = _Columns(Path(scratch), rows, num_permutations, bands)
        signing = partial(sign, num_permutations=num_permutations, ngram=ngram, seed=seed)
        _fill(columns, documents, signing, bands, num_workers, monitor)
        refuse_repeated_ids(documents, columns.id_N)

        components = Components(columns.rows)
        exact = components.link_equal(columns.text_N)
        near = components.link_equal(columns.signature_key_N)
        _, distinct = np.unique(columns.signature_key_N, return_index=True)
        for key_N in columns.band_key_BN:
            near += link_alike(components, distinct, key_N, columns.signature_NP, threshold)
            components.of_all()
    component_N = components.of_all()
    size_N = np.bincount(component_N, minlength=columns.rows)
    _write_groups(documents, component_N, size_N, output)
    groups = int(np.count_nonzero(size_N))
    numbers = {
        "documents": float(columns.rows),
        "groups": float(groups),
        "links_exact": float(exact),
        "links_near": float(near),
        "duplicates": float(columns.rows - groups),
        "largest_group": float(size_N.max()),
        "rows_per_second": columns.rows / (time.monotonic() - began),
    }
    monitor.metrics(numbers)
    return numbers


def remove_duplicates(
    *,
    documents: Folder,
    duplicates: Folder,
    output: Folder,
    monitor: Monitor,
    num_workers: int = 2,
) -> dict[str, float]:
    """Keep the first document of each group; judgements of its copies become its own.

    Args:
        documents: folder with documents.parquet, and queries.parquet and qrels.parquet if it has any.
        duplicates: output of `group_duplicates` of the same documents. Of its copies some 60 bytes each are held in
            every worker.
        num_workers: a CPU each.

    Returns:
        rows_in, rows_out, rejected_duplicate, and of queries and judgements what `rewrite_documents` says.

    Raises:
        ValueError: the groups are not those of these documents.
    """
    if _ids_checksum(duplicates, "groups.parquet") != _ids_checksum(documents, "documents.parquet"):
        raise ValueError(
            f"the groups in {duplicates.uri} are not those of the documents in {documents.uri}; group these first"
        )

    copies, stays = _copies(duplicates)

    def rewrite(batch: pa.Table) -> Rewritten:
        place, is_copy = find(copies, digests(batch["document_id"].to_pylist()))
        gone = batch.filter(pa.array(is_copy))
        of = stays.take(pa.array(place[is_copy])).to_pylist()
        moved = dict(zip(gone["document_id"].to_pylist(), ([each] for each in of), strict=True))
        return Rewritten(
            kept=batch.filter(pa.array(~is_copy)),
            rejected=rejected_rows(gone, ["duplicate"] * len(of), of),
            moved=moved,
        )

    numbers = rewrite_documents(documents, output, lambda: rewrite, num_workers, "remove duplicates", monitor)
    monitor.metrics(numbers)
    return numbers


class _Columns:
    """What is known of each document, in files: N documents, P permutations, B bands."""

    def __init__(self, scratch: Path, rows: int, num_permutations: int, bands: Bands) -> None:
        def column(name: str, dtype: type[np.generic], *shape: int) -> np.ndarray:
            return np.memmap(scratch / name, dtype, mode="w+", shape=shape)

        self.rows = rows
        self.signature_NP = column("signature", np.uint32, rows, num_permutations)
        self.signature_key_N = column("signature_key", np.uint64, rows)
        self.band_key_BN = column("band_key", np.uint64, bands.count, rows)
        self.text_N = column("text", np.int64, rows)
        self.id_N = column("id", np.int64, rows)


def _fill(
    columns: _Columns,
    documents: Folder,
    signing: Callable[[Iterable[str]], np.ndarray],
    bands: Bands,
    num_workers: int,
    monitor: Monitor,
) -> None:
    def work(piece: Piece) -> dict[str, np.ndarray]:
        parts = []
        for batch in read_piece(piece, ["document_id", "title", "text"]):
            ids, titles, texts = (batch[name].to_pylist() for name in ("document_id", "title", "text"))
            parts.append(
                {
                    "signature": signing(map(passage, titles, texts)),
                    "text": digests([_compared(*each) for each in zip(titles, texts, strict=True)]),
                    "id": digests(ids),
                }
            )
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return found | {"row": np.arange(piece.first_row, piece.first_row + piece.rows)}

    done = 0
    pieces = pieces_of(documents, "documents.parquet")
    for found in over_pieces(pieces, lambda: work, num_workers, "sign documents"):
        rows, signature_NP = found["row"], found["signature"]
        columns.signature_NP[rows] = signature_NP
        columns.signature_key_N[rows] = hash_rows(signature_NP)
        columns.band_key_BN[:, rows] = band_keys(signature_NP, bands)
        columns.text_N[rows] = found["text"]
        columns.id_N[rows] = found["id"]
        done += len(rows)
        monitor.progress(done, columns.rows, "documents")


def _compared(title: str | None, text: str) -> str:
    """What makes two documents equal: the text, or the title where there is no text."""
    return normalise(text) or f"\x1f{normalise(title or '')}"


def _write_groups(documents: Folder, component_N: np.ndarray, size_N: np.ndarray, output: Folder) -> None:
    """In the order of the documents."""

    def ids_and_components() -> Iterator[tuple[list[str], np.ndarray]]:
        row = 0
        for batch in read_batches(documents, "documents.parquet", ["document_id"]):
            ids = batch["document_id"].to_pylist()
            yield ids, component_N[row : row + len(ids)]
            row += len(ids)

    name_of: dict[int, str] = {}
    for ids, component in ids_and_components():
        for at in np.flatnonzero(size_N[component] > 1):
            number, document_id = int(component[at]), ids[at]
            name_of[number] = min(name_of.get(number, document_id), document_id)
    with TableWriter(output, "groups.parquet", GROUPS) as writer:
        for ids, component in ids_and_components():
            names = [
                name_of.get(int(number), document_id)
                for number, document_id in zip(component, ids, strict=True)
            ]
            is_duplicate = [name != document_id for name, document_id in zip(names, ids, strict=True)]
            writer.write(pa.table([ids, names, is_duplicate], schema=GROUPS))


def _copies(duplicates: Folder) -> tuple[np.ndarray, pa.Array]:
    """Of each copy the digest of its id, ascending, and the id of the document that stays."""
    ids, stays = [np.empty(0, dtype=np.int64)], [pa.array([], pa.string())]
    for batch in read_batches(duplicates, "groups.parquet"):
        copies = batch.filter(batch["is_duplicate"])
        ids.append(digests(copies["document_id"].to_pylist()))
        stays.append(copies["group_id"].combine_chunks())
    found = np.concatenate(ids)
    order = np.argsort(found)
    return found[order], pa.concat_arrays(stays).take(pa.array(order))


def _ids_checksum(folder: Folder, name: str) -> tuple[int, int]:
    """Of the document ids of a table, whatever their order."""
    rows, total = 0, 0
    for batch in read_batches(folder, name, ["document_id"]):
        ids = digests(batch["document_id"].to_pylist())
        rows, total = rows + len(ids), (total + int(ids.astype(np.uint64).sum())) % 2**64
    return rows, total
