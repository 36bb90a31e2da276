"""Templates around a text: what is cut, what stays, what is marked."""

import pytest
from tiny_backbones import tiny_tokenizer

from components.model.framing import Framer
from components.model.spec import EncodingSpec

SPEC = EncodingSpec(
    query_length=16,
    document_length=16,
    dimensions=4,
    pooling="prompt",
    query_template="w30 {text} w31 [MASK]",
    document_template="w32 {instruction} {text} w33",
    document_instruction="w34",
)


def w(*numbers: int) -> list[int]:
    return [number + 4 for number in numbers]


def marked(*ids: int) -> list[int]:
    return [~number for number in ids]


def test_template_is_marked_and_the_end_token_is_not():
    frame = Framer(SPEC, tiny_tokenizer())
    assert frame.specials_behind == 1
    assert frame("query", ["w30 "], ["w1 w2"], 16) == [[*marked(34), *w(1, 2), *marked(35, 3), 1]]
    assert frame("document", [SPEC.prefix("document")], ["w1"], 16) == [
        [*marked(36, 38), *w(1), *marked(37), 1]
    ]


def test_a_cut_shortens_the_text_alone():
    frame = Framer(SPEC, tiny_tokenizer(), marks_template=False)
    assert frame("query", ["w30 "] * 2, ["w1 w2 w3 w4 w5", ""], 6) == [
        [*w(30, 1, 2), *w(31), 3, 1], [*w(30, 31), 3, 1],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="leaves no room for text beside the 2 tokens behind it"):
        frame("query", ["w30 "], ["w1"], 2)


def test_what_the_template_s_words_stand_in_for_is_the_text_s():
    """A text with a mask token, or with the template's own words, is text."""
    frame = Framer(SPEC, tiny_tokenizer())
    assert frame("query", ["w30 "], ["[MASK] w31"], 16) == [[*marked(34), 3, *w(31), *marked(35, 3), 1]]
