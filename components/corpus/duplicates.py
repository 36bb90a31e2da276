"""Groups of documents that are copies or near-copies, so that a split can keep each on one side."""

import re
import unicodedata
from collections.abc import Iterable

import networkx as nx
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from components.corpus.schema import DOCUMENTS, conform, passage
from components.monitor import Monitor
from components.storage import Folder

GROUPS = pa.schema(
    [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("is_duplicate", pa.bool_(), nullable=False),
    ]
)

# In scripts written without spaces a word is one character.
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Lao, kana, CJK ideographs
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def group_duplicates(
    *,
    documents: Folder,
    threshold: float,
    num_permutations: int,
    ngram: int,
    seed: int,
    output: Folder,
    monitor: Monitor,
) -> dict[str, float]:
    """Write groups.parquet: for each document its group, and whether it is a copy of another member.

    Two documents are linked if their normalised texts (NFKC, lower case, white space folded; titles aside)
    are equal, or if MinHash (Broder 1997) estimates the Jaccard similarity of their sets of word n-grams
    (title and text) at `threshold` or above. Locality-sensitive hashing finds the candidates; each is
    verified with the full signatures. A group is a connected component of these links, named by its smallest
    document id.

    Args:
        documents: output of `read_documents`.
        threshold: Jaccard similarity in (0, 1] from which two documents are near-copies.
        num_permutations: length of a signature; the estimate's standard error is below 0.5 / sqrt(length).
        ngram: words in a shingle.
        seed: of the permutations.

    Returns:
        documents, groups, links_exact, links_near, duplicates (documents that are not the first of their
        group) and largest_group.

    Raises:
        ValueError: the threshold is not in (0, 1], or the signatures are too short for it.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is {threshold}; a Jaccard similarity lies above 0 and at most at 1")
    table = conform(documents.read_table("documents.parquet"), DOCUMENTS)
    rows = sorted(
        zip(*(table.column(name).to_pylist() for name in ("document_id", "title", "text")), strict=True)
    )
    links = nx.Graph()
    links.add_nodes_from(document_id for document_id, _, _ in rows)

    first: dict[str, str] = {}
    exact = 0
    for document_id, _, text in rows:
        standing = first.setdefault(normalise(text), document_id)
        if standing != document_id:
            links.add_edge(standing, document_id)
            exact += 1

    near = 0
    try:
        # Candidates are verified, so a missed near-copy counts for more than a false candidate. At thresholds
        # near 1 the index would have one band, which it refuses.
        index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=num_permutations, weights=(0.1, 0.9))
    except ValueError as error:
        raise ValueError(
            f"`num_permutations` is {num_permutations}, too few for a threshold of {threshold}; 128 is usual"
        ) from error
    signatures: dict[str, MinHash] = {}
    shingled = (shingles(passage(title, text), ngram) for _, title, text in rows)
    generated = MinHash.generator(shingled, num_perm=num_permutations, seed=seed, scheme="affine32")
    for done, ((document_id, _, _), signature) in enumerate(zip(rows, generated, strict=True), start=1):
        for candidate in index.query(signature):
            if signature.jaccard(signatures[candidate]) >= threshold:
                links.add_edge(candidate, document_id)
                near += 1
        index.insert(document_id, signature, check_duplication=False)
        signatures[document_id] = signature
        if done % 1000 == 0 or done == len(rows):
            monitor.progress(done, len(rows), "documents", links=exact + near)

    groups = {min(members): members for members in nx.connected_components(links)}
    group_of = {member: group for group, members in groups.items() for member in members}
    ids = [document_id for document_id, _, _ in rows]
    output.write_table(
        "groups.parquet",
        pa.table(
            [ids, [group_of[key] for key in ids], [group_of[key] != key for key in ids]],
            schema=GROUPS,
        ),
    )
    numbers = {
        "documents": float(len(rows)),
        "groups": float(len(groups)),
        "links_exact": float(exact),
        "links_near": float(near),
        "duplicates": float(len(rows) - len(groups)),
        "largest_group": float(max((len(members) for members in groups.values()), default=0)),
    }
    monitor.metrics(numbers)
    return numbers


def normalise(text: str) -> str:
    """NFKC, lower case, white space folded: two texts that a reader would call the same."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def shingles(text: str, ngram: int) -> Iterable[bytes]:
    """The set of word n-grams of the normalised text; a text of fewer words is one shingle."""
    words = _WORD.findall(normalise(text))
    return {" ".join(words[i : i + ngram]).encode() for i in range(max(1, len(words) - ngram + 1))}
