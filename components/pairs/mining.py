"""Hard negatives: the documents that a model ranks high for a query and that do not answer it."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from components.corpus.schema import PAIRS
from components.corpus.tables import TableWriter
from components.model.embedder import Precision
from components.model.spec import Side
from components.monitor import Monitor
from components.pairs.audit import audit_figure, merge_audits, summarise, suspicious_table
from components.pairs.candidates import Store
from components.pairs.choice import Exclusion, Rules, Sampling
from components.pairs.known import Documents, Known, KnownPositives, check_links
from components.pairs.mining_block import PAIRS_PER_BLOCK, BlockMiner, BlockPlan, Blocks
from components.pairs.pair_index import PairIndex, index_pairs, read_documents
from components.pairs.profiles import HASHES, profile_texts
from components.pairs.rounds import FIRST_SCORES, FIRST_SCORES_FILE, Outgrown, read_first_scores
from components.search.encoding import encode_shards
from components.search.sharded import search_shards
from components.search.shards import Shards, TableShards, write_tables
from components.search.workers import Workers, over_shards
from components.storage import Folder

EXCLUSIONS: tuple[Exclusion, ...] = ("known_positives", "copies", "near_copies")


def mine_negatives(
    *,
    pairs: Folder,
    split: Folder,
    model: Folder,
    negatives_per_query: int,
    window: list[int],
    relative_margin: float | None = 0.95,
    absolute_margin: float | None = None,
    exclude: Sequence[Exclusion] = EXCLUSIONS,
    near_copy_words: float | None = 0.5,
    near_copy_cosine: float | None = 0.95,
    sampling: Sampling = "top",
    veto_margin: float = 0.95,
    replace: Literal["all", "outgrown"] = "all",
    outgrown_factor: float = 1.15,
    outgrown_below: float = 0.8,
    seed: int = 0,
    precision: Precision = "float32",
    output: Folder,
    monitor: Monitor,
    state: Folder,
    reranker: Folder | None = None,
    tokens_per_batch: int = 8192,
    num_workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    rows_per_shard: int = 8192,
) -> dict[str, float]:
    """Fill the negatives of every pair from the training documents, ranked exactly by a model.

    For each query the corpus is ranked without the query's known positives (`known.KnownPositives`: all pairs and
    training judgements, by query id and by query text) and without every copy of their text. Of the ranks
    `window` of what is left those stay that say something else than a known positive and score far enough below
    the pair's own positive; of them come the negatives. A row that finds fewer than asked is kept with what there
    is.

    Texts, vectors and findings lie in files of `state`, and a step that is tried again goes on from them. In
    memory are, of the whole, some 80 bytes a document and some 200 a pair; of the rest one file at a time, and in
    a search worker `search.sharded.worker_bytes`.

    Args:
        pairs: `pairs.parquet` in the schema PAIRS.
        split: output of `split_documents`; `train/` is read.
        model: model directory.
        negatives_per_query: how many at most.
        window: ranks to draw from, counted from 0: the first, and one past the last.
        relative_margin: a negative scores below this share of the positive's score (TopK-PercPos of
            NV-Retriever, arXiv 2407.15831, which takes 0.95); None: no such bound.
        absolute_margin: a negative scores below the positive's score less this; None: no such bound.
        exclude: what is kept from being a negative; all of it, except to see what that does. A document that holds
            the positive word for word is a near-copy, too (of positives with `choice.FEW_WORDS` distinct words).
        near_copy_words: a document that shares this part of its words with a known positive (Jaccard similarity
            of the word sets, of texts with `choice.FEW_WORDS` distinct words and more) is a near-copy; None: off.
        near_copy_cosine: so is one whose cosine with a known positive reaches this; None: off.
        sampling: `top`: the highest ranks; `random`: a sample seeded by `seed` and the pair's id; `spread`: ranks at
            even distances.
        veto_margin: with a reranker, a negative scores below this share of what the reranker gives the positive.
        replace: `all`: every row is mined, and negatives that came with it are dropped; `outgrown`: rows keep
            the negatives they came with until the model has outgrown them (`rounds`) or one of them is a known
            positive. First scores are read from `negative_scores.parquet` beside the pairs; negatives without
            one stay, and get theirs now.
        outgrown_factor, outgrown_below: the two numbers of that rule.
        precision: in which the model computes.
        output: `pairs.parquet` with `negatives` (passages, best rank first), `negative_ids` and `score`, and
            `negative_scores.parquet` for the next round.
        state: what survives an attempt.
        reranker: directory of a model that `model.reranker.load_reranker` loads; None: no veto.
        tokens_per_batch: padded tokens in one forward pass.
        num_workers: processes that encode, search and choose at once. num_cpus, num_gpus: of one that encodes or
            chooses; one that searches has one CPU.
        rows_per_shard: texts of a file; so many, for each worker, are encoded again after a crash.

    Returns: rows_in, rows_out, negatives, score_mean_positive, score_mean_negative, share_short (rows with fewer
        than asked), share_without (rows with none), share_<rule> (of the documents down to the end of the window,
        those that were a known_positive, a copy, a near_copy, within the margin, or asked for and turned away by
        veto), rows_kept (with the negatives they came with), negatives_dropped (that the others came with),
        positives_missing (pairs whose positive the corpus does not hold), and, where it can be told,
        estimated_false_negative_rate (`audit.estimate_false_negatives`).

    Raises:
        ValueError: a setting that cannot be used, no pairs, no documents, two documents of one id, queries with too
            many known positives (`known.check_links`), a model that gives vectors that are not finite, or a
            reranker that gives scores that are no numbers.
    """
    if len(window) != 2 or not 0 <= window[0] < window[1]:
        raise ValueError(f"mine: window must be two ranks, the first below the second; it is {list(window)}")
    rules = _check_rules(
        Rules(
            negatives_per_query=negatives_per_query,
            first_rank=window[0],
            end_rank=window[1],
            relative_margin=relative_margin,
            absolute_margin=absolute_margin,
            exclude=tuple(exclude),
            near_copy_words=near_copy_words,
            near_copy_cosine=near_copy_cosine,
            sampling=sampling,
            seed=seed,
        )
    )
    if not 0 < veto_margin <= 1:
        raise ValueError(f"mine: veto_margin must be above 0 and at most 1; it is {veto_margin}")
    if replace not in ("all", "outgrown"):
        raise ValueError(f"mine: replace must be 'all' or 'outgrown'; it is {replace!r}")
    workers = Workers(num_workers, num_cpus, num_gpus)

    corpus = write_tables(read_documents(split), state / "documents", rows_per_shard)
    if not corpus.rows:
        raise ValueError("mine: there are no training documents")
    profiles = profile_texts(corpus, state / "profiles", num_workers)
    documents = _read_hashes(profiles)
    _check_ids(documents, corpus)
    sizes = {"rows_per_shard": corpus.rows_per_shard, "pairs_per_shard": PAIRS_PER_BLOCK}
    index = index_pairs(
        pairs, split / "train", documents, state, **sizes, with_negatives=replace == "outgrown"
    )
    known = KnownPositives(documents, index.answers)
    check_links(known.counts(index.id_U, index.text_U), rows_per_shard)

    def encode(texts: TableShards, side: Side, name: str) -> Shards:
        where = (model, state / name, monitor)
        return encode_shards(
            texts, side, *where, precision=precision, tokens_per_batch=tokens_per_batch, workers=workers
        )

    query_vectors = encode(index.queries, "query", "query-vectors")
    store = Store(
        corpus_texts=corpus,
        corpus_profiles=profiles,
        corpus_vectors=encode(corpus, "document", "document-vectors"),
        outside_profiles=profile_texts(index.outside, state / "outside-profiles", num_workers),
        outside_vectors=encode(index.outside, "document", "outside-vectors"),
    )

    found = Shards(state / "found", index.queries.rows, index.queries.rows_per_shard)

    def barred(shard: int) -> tuple[np.ndarray, np.ndarray]:
        mine = slice(found.span(shard).start, found.span(shard).stop)
        return _barred(known.of(index.id_U[mine], index.text_U[mine]), rules.exclude)

    depth = min(rules.end_rank, corpus.rows)
    search_shards(query_vectors, store.corpus_vectors, depth, found, monitor, barred, num_workers)

    outgrown = Outgrown(outgrown_factor, outgrown_below) if replace == "outgrown" else None
    blocks = Blocks(state / "mined", index.pairs, found, query_vectors, store, rules, outgrown)
    first_N = read_first_scores(pairs if outgrown else None, _pair_ids(index.pairs), len(index))
    _plan_blocks(blocks, index, known, first_N)
    settings = {
        "blocks": blocks,
        "reranker": reranker,
        "veto_margin": veto_margin,
        "precision": precision,
        "tokens_per_batch": tokens_per_batch,
    }
    # Only a reranker computes what a GPU would speed up.
    chooser = workers if reranker else Workers(num_workers, num_cpus)
    done = len(blocks.mined) - len(blocks.missing())
    for _ in over_shards(BlockMiner, settings, blocks.missing(), chooser):
        done += 1
        monitor.progress(min(done * PAIRS_PER_BLOCK, len(index)), len(index), "pairs")

    audit = merge_audits(blocks.read_audit(block) for block in range(len(index.pairs)))
    _write_pairs(blocks.mined, output)
    monitor.artifact("suspicious_negatives.csv", suspicious_table(audit))
    monitor.figure("mined_scores.png", audit_figure(audit))
    numbers = summarise(audit) | {"positives_missing": float((~index.in_corpus_N).sum())}
    monitor.metrics(numbers)
    return numbers


def _check_rules(rules: Rules) -> Rules:
    """Raises ValueError where a setting cannot be used."""
    if rules.negatives_per_query < 1:
        raise ValueError(f"mine: negatives_per_query must be at least 1; it is {rules.negatives_per_query}")
    for name in ("relative_margin", "near_copy_words", "near_copy_cosine"):
        value = getattr(rules, name)
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"mine: {name} must be above 0 and at most 1, or null; it is {value}")
    if rules.absolute_margin is not None and rules.absolute_margin < 0:
        raise ValueError(f"mine: absolute_margin must be 0 or above, or null; it is {rules.absolute_margin}")
    unknown = [name for name in rules.exclude if name not in EXCLUSIONS]
    if unknown:
        raise ValueError(f"mine: exclude names {', '.join(EXCLUSIONS)}; it is {list(rules.exclude)}")
    if rules.sampling not in ("top", "random", "spread"):
        raise ValueError(f"mine: sampling must be 'top', 'random' or 'spread'; it is {rules.sampling!r}")
    return rules


def _read_hashes(profiles: TableShards) -> Documents:
    parts = [profiles.read(shard).select(HASHES) for shard in range(len(profiles))]
    columns = {f"{name}_M": np.concatenate([part[name].to_numpy() for part in parts]) for name in HASHES}
    return Documents(**columns)


def _check_ids(documents: Documents, corpus: TableShards) -> None:
    if (rows := documents.repeated_id()) is not None:
        repeated = corpus.take(np.array(rows[:1]), ["document_id"])["document_id"][0].as_py()
        raise ValueError(
            f"mine: document id {repeated!r} stands for rows {rows[0]} and {rows[1]} of the training documents; "
            "an id must be one document's"
        )


def _barred(known: Known, exclude: tuple[Exclusion, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What no query may find, by row."""
    out = np.where(known.copy_B, "copies" in exclude, "known_positives" in exclude)
    order = np.argsort(known.row_B[out], kind="stable")
    return known.query_B[out][order], known.row_B[out][order]


def _plan_blocks(blocks: Blocks, index: PairIndex, known: KnownPositives, first_N: np.ndarray) -> None:
    """Write what each block that is not mined needs to know."""
    end_N = np.cumsum(index.negatives_N)
    for block in blocks.missing():
        span = blocks.pairs.span(block)
        rows = slice(span.start, span.stop)
        query_Q, query_B = np.unique(index.query_N[rows], return_inverse=True)
        mine = known.of(index.id_U[query_Q], index.text_U[query_Q])
        start = end_N[span.start] - index.negatives_N[span.start]
        blocks.write_plan(
            block,
            BlockPlan(
                query_B=query_B,
                query_Q=query_Q,
                positive_B=index.positive_N[rows],
                negative_J=index.negative_J[start : end_N[span.stop - 1]],
                negatives_B=index.negatives_N[rows],
                first_score_B=first_N[rows],
                known_query_B=mine.query_B,
                known_row_B=mine.row_B,
                known_copy_B=mine.copy_B,
                known_query_R=mine.query_R,
                known_reference_R=mine.reference_R,
            ),
        )


def _pair_ids(pairs: TableShards) -> Iterator[list[str]]:
    for block in range(len(pairs)):
        yield pairs.read(block)["pair_id"].to_pylist()


def _write_pairs(mined: TableShards, output: Folder) -> None:
    with (
        TableWriter(output, "pairs.parquet", PAIRS) as pairs,
        TableWriter(output, FIRST_SCORES_FILE, FIRST_SCORES) as scores,
    ):
        for block in range(len(mined)):
            table = mined.read(block)
            pairs.write(table.select(PAIRS.names).cast(PAIRS))
            scores.write(table.select(FIRST_SCORES.names).cast(FIRST_SCORES))
