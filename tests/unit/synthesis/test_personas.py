"""The draws of a document: its own, whatever company it comes in, and the same on any machine."""

from collections import Counter

from scipy.stats import chisquare

from components.synthesis.personas import choose_candidates, draw_length, row_seed
from components.synthesis.prompts import load_personas

PASSAGES = {
    "svd": "The eigenvalues of a symmetric matrix are real; floating-point accuracy depends on its condition.",
    "iron": "Patients with low blood pressure need another treatment and other drugs.",
    "none": "zzz qqq",
}


def test_the_candidates_fit_the_passage():
    personas = load_personas()
    svd, iron, none = choose_candidates(list(PASSAGES), list(PASSAGES.values()), personas, seed=0)
    assert any("eigenvalues" in persona for persona in svd)
    assert any("patients" in persona for persona in iron)
    for candidates in (svd, iron, none):
        assert len(set(candidates)) == 5
        assert set(candidates) <= set(personas)


def test_the_candidates_do_not_depend_on_the_company():
    personas = load_personas()
    together = choose_candidates(list(PASSAGES), list(PASSAGES.values()), personas, seed=3)
    for (document_id, text), candidates in zip(PASSAGES.items(), together, strict=True):
        assert choose_candidates([document_id], [text], personas, seed=3) == [candidates]


def test_draws_are_the_same_in_another_process(python):
    code = (
        "from components.synthesis.personas import *; from components.synthesis.prompts import load_personas;"
        "print(choose_candidates(['a'], ['zzz'], load_personas(), 0), draw_length('a', (4, 14), 0))"
    )
    here = choose_candidates(["a"], ["zzz"], load_personas(), 0), draw_length("a", (4, 14), 0)
    assert python(code).strip() == f"{here[0]} {here[1]}"


def test_lengths_are_uniform_between_the_bounds():
    lengths = Counter(draw_length(f"document {number}", (4, 14), seed=0) for number in range(5500))
    assert set(lengths) == set(range(4, 15))
    assert chisquare(list(lengths.values())).pvalue > 0.001
    assert Counter(draw_length(f"document {number}", (4, 14), seed=1) for number in range(5500)) != lengths


def test_row_seeds_differ_and_fit_in_31_bits():
    seeds = {row_seed(f"document {number}", seed=0) for number in range(2000)}
    assert len(seeds) == 2000
    assert max(seeds) < 2**31
