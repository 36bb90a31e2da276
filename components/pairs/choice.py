"""Which of the candidates become negatives."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.pairs.candidates import Candidates

Exclusion = Literal["known_positives", "copies", "near_copies"]
Sampling = Literal["top", "random", "spread"]

FEW_WORDS = 20
"""Distinct words below which texts that share most of them need not say the same (sentences, titles, labels)."""


@dataclass(frozen=True)
class Rules:
    """What a negative must be. `mining.mine_negatives` says more of each."""

    negatives_per_query: int
    first_rank: int
    end_rank: int
    relative_margin: float | None
    absolute_margin: float | None
    exclude: tuple[Exclusion, ...]
    near_copy_words: float | None
    near_copy_cosine: float | None
    sampling: Sampling
    seed: int

    def ceiling(self, positive_score_B: np.ndarray) -> np.ndarray:
        """The score that a negative stays below, float32 [B]."""
        ceiling_B = np.full(len(positive_score_B), np.inf, dtype=np.float32)
        if self.relative_margin is not None:
            # Below the positive also where its score is negative.
            gap_B = (1 - self.relative_margin) * np.abs(positive_score_B)
            ceiling_B = np.minimum(ceiling_B, positive_score_B - gap_B)
        if self.absolute_margin is not None:
            ceiling_B = np.minimum(ceiling_B, positive_score_B - self.absolute_margin)
        return ceiling_B

    def is_near_copy(self, candidates: Candidates) -> np.ndarray:
        """bool [B, K]: says what a known positive says, in nearly its words or by the model's own measure."""
        near_BK = np.zeros(candidates.row_BK.shape, dtype=bool)
        if "near_copies" not in self.exclude:
            return near_BK
        if self.near_copy_words is not None:
            near_BK |= (candidates.words_BK >= self.near_copy_words) & (candidates.few_words_BK >= FEW_WORDS)
        if self.near_copy_cosine is not None:
            near_BK |= candidates.cosine_BK >= self.near_copy_cosine
        return near_BK


Test = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Pairs by number and places among their candidates, int64 [J] each, to whether each may not be a negative."""


def choose(
    candidates: Candidates,
    pair_ids: Sequence[str],
    passage_BK: np.ndarray,
    rules: Rules,
    tests: Mapping[str, Test],
) -> tuple[list[np.ndarray], Counter[str]]:
    """Places of the negatives of each pair among its candidates, rising, and what was turned away by rule.

    Args:
        passage_BK: int64, hashes of the candidates' normalised passages: of copies the first in rank stands for
            all.
        tests: by name, asked for candidates that pass every rule, in the order in which they would be taken.
    """
    there_BK = candidates.row_BK >= 0
    near_BK = rules.is_near_copy(candidates) & there_BK
    too_high_BK = candidates.score_BK >= rules.ceiling(candidates.positive_score_B)[:, None]
    margin_BK = there_BK & ~near_BK & too_high_BK
    free_BK = there_BK & ~near_BK & ~margin_BK
    free_BK[:, : rules.first_rank] = False
    excluded = Counter({"near_copy": int(near_BK.sum()), "margin": int(margin_BK.sum()), "veto": 0})

    waiting = [
        _preferred(np.flatnonzero(free_BK[row]), passage_BK[row], pair_id, rules)
        for row, pair_id in enumerate(pair_ids)
    ]
    chosen: list[list[int]] = [[] for _ in waiting]
    while True:
        taken = [
            (row, place)
            for row, places in enumerate(waiting)
            for place in places[: rules.negatives_per_query - len(chosen[row])].tolist()
        ]
        if not taken:
            return [np.array(sorted(places), dtype=np.int64) for places in chosen], excluded
        row_J, place_J = np.array(taken).T
        good_J = np.ones(len(taken), dtype=bool)
        for name, test in tests.items():
            asked = np.flatnonzero(good_J)
            turned_away = test(row_J[asked], place_J[asked])
            excluded[name] += int(turned_away.sum())
            good_J[asked[turned_away]] = False
        for (row, place), good in zip(taken, good_J.tolist(), strict=True):
            waiting[row] = waiting[row][1:]
            if good:
                chosen[row].append(place)


def _preferred(places: np.ndarray, passage_K: np.ndarray, pair_id: str, rules: Rules) -> np.ndarray:
    """A pair's free places in the order in which they are taken."""
    places = places[np.sort(np.unique(passage_K[places], return_index=True)[1])]
    wanted = rules.negatives_per_query
    if rules.sampling == "top" or len(places) <= wanted:
        return places
    if rules.sampling == "spread":
        first = np.arange(wanted) * len(places) // wanted
    else:
        # Seeded by the pair, so that a row's sample does not depend on the rows around it.
        first = np.random.default_rng([rules.seed, *pair_id.encode()]).permutation(len(places))
    return np.concatenate([places[first], np.delete(places, first)])
