"""The draws of a row: its own, whatever company it comes in, with the shares that were asked for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from components.synthesis.draws import Draws, draw, draw_length, is_kept, keep_rates, row_seed

NAMES = [f"document {number}" for number in range(6000)]


def test_draws_are_the_same_in_another_process(python):
    code = (
        "from components.synthesis.draws import *;"
        "print([draw('family', str(n), 0, {'b': 2.0, 'a': 1.0}) for n in range(40)], draw_length('a', 0, "
        "{'4-14': 1.0, '20-90': 1.0}), row_seed('a', 0))"
    )
    drawn = [draw("family", str(n), 0, {"a": 1.0, "b": 2.0}) for n in range(40)]
    here = f"{drawn} {draw_length('a', 0, {'20-90': 1.0, '4-14': 1.0})} {row_seed('a', 0)}"
    assert python(code).strip() == here


def test_names_are_drawn_by_their_shares():
    shares = {"retrieval": 6.0, "sts": 3.0, "classification": 1.0}
    counts = Counter(draw("family", name, 0, shares) for name in NAMES)
    expected = [len(NAMES) * shares[name] / 10 for name in shares]
    assert chisquare([counts[name] for name in shares], expected).pvalue > 0.001
    assert Counter(draw("family", name, 1, shares) for name in NAMES) != counts


def test_what_is_drawn_for_one_thing_says_nothing_about_another():
    shares = {"a": 1.0, "b": 1.0}
    both = Counter((draw("family", name, 0, shares), draw("aspect", name, 0, shares)) for name in NAMES)
    assert chisquare(list(both.values())).pvalue > 0.001


def test_lengths_are_uniform_in_their_range():
    lengths = Counter(draw_length(name, 0, {"4-14": 1.0}) for name in NAMES)
    assert set(lengths) == set(range(4, 15))
    assert chisquare(list(lengths.values())).pvalue > 0.001
    ranges = Counter(draw_length(name, 0, {"4-5": 3.0, "30-31": 1.0}) > 20 for name in NAMES)
    assert chisquare([ranges[False], ranges[True]], [4500, 1500]).pvalue > 0.001


def test_row_seeds_differ_and_fit_in_31_bits():
    seeds = {row_seed(name, 0) for name in NAMES}
    assert (
        len(seeds) >= len(NAMES) - 1
    )  # 6000 of 2**31: one pair alike has a chance of under one in a hundred
    assert max(seeds) < 2**31


@given(
    st.dictionaries(st.sampled_from(["en", "zh", "de", "fr"]), st.integers(1, 10**6), min_size=1),
    st.data(),
)
def test_the_languages_that_are_used_have_their_shares(counts: dict[str, int], data: st.DataObject):
    languages = data.draw(st.lists(st.sampled_from(sorted(counts)), min_size=1, unique=True))
    shares = {language: data.draw(st.floats(0.01, 10)) for language in languages}
    rates = keep_rates(counts, shares)
    used = {language: counts[language] * rates[language] for language in shares}
    for language in shares:
        assert used[language] / sum(used.values()) == pytest.approx(shares[language] / sum(shares.values()))
    assert max(rates.values()) == pytest.approx(1.0)
    assert set(rates) == set(shares)


def test_documents_are_thinned_out_by_their_rate():
    assert all(is_kept(name, 0, 1.0) for name in NAMES)
    assert not any(is_kept(name, 0, 0.0) for name in NAMES)
    kept = sum(is_kept(name, 0, 0.25) for name in NAMES)
    assert chisquare([kept, len(NAMES) - kept], [1500, 4500]).pvalue > 0.001


def test_a_language_without_a_document_is_named():
    with pytest.raises(ValueError, match=r"'zh' a share.*there are \(none\) 2, en 3"):
        keep_rates({"en": 3, "": 2}, {"zh": 1.0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"families": {}}, "families"),
        ({"families": {"poetry": 1}}, "poetry"),
        ({"families": {"sts": 0}}, "greater than 0"),
        ({"length_words": {"14-4": 1}}, "least first"),
        ({"length_words": {"0-4": 1}}, "least first"),
        ({"similarities": {"2>5": 1}}, "above the negative's"),
        ({"similarities": {"6>5": 1}}, "0 to 5"),
        ({"aspects": {}}, "aspects is empty"),
        ({"families": {"bitext_mining": 1}}, "translate into"),
        ({"languages": {"en": 1}}, "Extra inputs"),
    ],
)
def test_a_wrong_distribution_is_refused(fields: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        Draws.model_validate(fields)
