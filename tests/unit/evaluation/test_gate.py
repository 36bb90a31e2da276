"""The gate: better than the base, not worse than the champion, on one collection."""

import re
from dataclasses import replace

import numpy as np
import pytest

from components.evaluation.gate import decide


@pytest.fixture
def good(system):
    return system([1] * 40 + [2] * 20)


@pytest.fixture
def poor(system):
    return system([4] * 40 + [0] * 20)


def test_clearly_better_than_the_base_passes_without_champion(good, poor):
    decision = decide(good, poor, None)
    assert decision.passed
    assert "significantly better than the base: ndcg@10 0.87" in decision.reasons[0]
    assert "60 queries over 200 documents" in decision.reasons[0]
    assert decision.reasons[1] == "there is no champion yet to compare with"


def test_equal_to_the_base_does_not_pass(good):
    decision = decide(good, good, None)
    assert not decision.passed
    assert decision.reasons[0].startswith("not significantly better than the base")
    assert "more of them" not in decision.reasons[0]


def test_a_little_better_is_told_what_difference_the_queries_show(good, system):
    (reason, _) = decide(system([1] * 41 + [2] * 19), good, None).reasons
    shown = float(re.search(r"differences from about (\S+) on", reason).group(1))
    # One query of 60 gains 1 - 1 / log2(3); drawn again it comes up 0 to 3 times in 95 of 100 cases (binomial).
    assert shown == pytest.approx(3 * (1 - 1 / np.log2(3)) / 60 / 2, abs=1e-3)


def test_worse_than_the_base_does_not_pass_although_the_difference_is_significant(good, poor):
    decision = decide(poor, good, None)
    assert not decision.passed
    assert decision.reasons[0].startswith("significantly worse than the base")


def test_clearly_worse_than_the_champion_does_not_pass(system, good, poor):
    decision = decide(system([2] * 60), poor, good)
    assert not decision.passed
    assert decision.reasons[1].startswith("significantly worse than the champion")


def test_a_little_worse_than_the_champion_passes(system, poor):
    ranks = np.random.default_rng(0).integers(1, 8, 60)
    champion, candidate = ranks.copy(), ranks.copy()
    candidate[0] += 1
    decision = decide(system(list(candidate)), system([0] * 60), system(list(champion)))
    assert decision.passed
    assert decision.reasons[1].startswith("not significantly worse than the champion")


def test_a_champion_of_another_collection_does_not_let_a_candidate_pass(good, poor):
    decision = decide(good, poor, replace(poor, digest="0" * 64))
    assert not decision.passed
    assert "the champion was evaluated on another collection (000000000000)" in decision.reasons[1]
