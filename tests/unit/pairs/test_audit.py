"""The estimate of false negatives on nearness drawn from known distributions, with a known share planted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from components.pairs.audit import CASE, COUNTS, estimate_false_negatives, examine, merge_audits, summarise
from components.pairs.candidates import Candidates, partial_correlations

PAIRS, DEPTH, NEGATIVES = 1500, 40, 4


def drawn(planted_share, planted_deep=0.0, known_share=0.0, seed=0):
    """Candidates whose nearness is chance (words log-normal, correlation normal), except for those planted.

    Of the first NEGATIVES, which are mined, a share is planted: half of it in nearly the words of the positive,
    half near it by their vectors alone. Of the ranks behind a share is planted too.
    """
    generator = np.random.default_rng(seed)
    shape = (PAIRS, DEPTH)
    words = np.clip(np.exp(generator.normal(np.log(0.14), 0.4, shape)), 0, 1)
    partial = np.clip(generator.normal(0.4, 0.15, shape), -1, 1)
    share = np.zeros(DEPTH)
    share[:NEGATIVES], share[NEGATIVES:] = planted_share, planted_deep
    planted = generator.random(shape) < share
    in_words = generator.random(shape) < 0.5
    words = np.where(planted & in_words, generator.uniform(0.7, 1, shape), words)
    partial = np.where(planted & ~in_words, generator.uniform(0.93, 1, shape), partial)
    known = generator.random(shape) < known_share * (np.arange(DEPTH) < NEGATIVES)
    candidates = Candidates(
        row_BK=np.tile(np.arange(DEPTH), (PAIRS, 1)),
        score_BK=np.tile(np.linspace(0.9, 0.3, DEPTH, dtype=np.float32), (PAIRS, 1)),
        words_BK=words.astype(np.float32),
        few_words_BK=np.full(shape, 50),
        cosine_BK=partial.astype(np.float32),
        partial_BK=partial.astype(np.float32),
        known_BK=known,
        positive_score_B=np.full(PAIRS, 0.8, np.float32),
        passed_over_B=np.tile([2, 1], (PAIRS, 1)),
    )
    truth = (planted | known)[:, :NEGATIVES].mean()
    return candidates, truth


def audit_of(candidates, rows=slice(None)):
    part = Candidates(**{name: value[rows] for name, value in vars(candidates).items()})
    count = len(part.row_BK)
    audit, pairs, places = examine(
        part,
        [np.arange(NEGATIVES)] * count,
        np.ones(count, dtype=bool),
        np.empty(0, np.float32),
        np.zeros(count, dtype=np.int64),
        Counter({"near_copy": 3, "margin": 2, "veto": 1, "dropped": 4}),
        NEGATIVES,
    )
    first = rows.start or 0
    cases = [[f"{first + pair} {place}"] * len(CASE) for pair, place in zip(pairs, places, strict=True)]
    return replace(audit, cases=np.array(cases))


@pytest.mark.parametrize("planted_share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("planted_deep", [0.0, 0.05])
def test_the_estimate_finds_the_planted_share(planted_share, planted_deep):
    candidates, truth = drawn(planted_share, planted_deep)
    assert estimate_false_negatives(audit_of(candidates)) == pytest.approx(truth, rel=0.1)


def test_where_nothing_is_planted_the_estimate_is_next_to_nothing():
    candidates, _ = drawn(0.0)
    assert estimate_false_negatives(audit_of(candidates)) < 0.003


def test_known_positives_among_the_negatives_are_counted_whatever_their_words():
    candidates, truth = drawn(0.1, known_share=0.2)
    assert estimate_false_negatives(audit_of(candidates)) == pytest.approx(truth, rel=0.1)


def test_too_few_controls_give_no_estimate():
    candidates, _ = drawn(0.1)
    assert estimate_false_negatives(audit_of(candidates, slice(0, 5))) is None


def test_the_audit_of_parts_is_the_audit_of_the_whole():
    candidates, _ = drawn(0.1)
    whole = audit_of(candidates)
    merged = merge_audits(audit_of(candidates, slice(start, start + 400)) for start in range(0, PAIRS, 400))
    for name, value in vars(whole).items():
        if name != "counts":
            np.testing.assert_array_equal(getattr(merged, name), value)
    of_rules = [COUNTS.index(name) for name in ("near_copy", "margin", "veto", "dropped")]
    rest = [number for number in range(len(COUNTS)) if number not in of_rules]
    np.testing.assert_allclose(merged.counts[rest], whole.counts[rest])


def test_shares_are_of_all_documents_down_to_the_end_of_the_window():
    numbers = summarise(audit_of(drawn(0.0)[0]))
    documents = PAIRS * (DEPTH + 3)
    assert numbers["share_known_positive"] == pytest.approx(2 * PAIRS / documents)
    assert numbers["share_copy"] == pytest.approx(PAIRS / documents)
    assert numbers["share_near_copy"] == pytest.approx(3 / documents)
    assert numbers["score_mean_negative"] == pytest.approx(np.linspace(0.9, 0.3, DEPTH)[:NEGATIVES].mean())


def test_partial_correlation_is_the_cosine_of_what_is_left_without_the_query():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((3, 50, 6))
    left, right, query = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)

    def without_query(vector):
        rest = vector - np.einsum("jd,jd->j", vector, query)[:, None] * query
        return rest / np.linalg.norm(rest, axis=1, keepdims=True)

    expected = np.einsum("jd,jd->j", without_query(left), without_query(right))
    dots = [np.einsum("jd,jd->j", *pair) for pair in ((left, right), (left, query), (right, query))]
    np.testing.assert_allclose(partial_correlations(*dots), expected, atol=1e-6)
