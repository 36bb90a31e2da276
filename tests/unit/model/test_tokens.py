"""The end token and the batches."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_decoder import END
from tokenizers.processors import BertProcessing, ByteLevel, TemplateProcessing
from tokenizers.processors import Sequence as Processors
from transformers import AutoTokenizer

from components.model.tokens import BATCH_SHARE, append_end_token, appended_token, batches_by_length


def test_end_token_goes_behind_what_the_tokenizer_puts_in_front(language_model):
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> $A", special_tokens=[("<unk>", 1)]
    )
    tokenizer.backend_tokenizer.enable_padding(length=8)  # as the files of some models ask for
    assert appended_token(tokenizer) is None
    append_end_token(tokenizer, END)
    append_end_token(tokenizer, END)  # once is enough
    assert appended_token(tokenizer) == END
    assert tokenizer("w0 w1").input_ids == [1, 2, 3, 0]
    assert tokenizer("w0 w1 w2 w3", truncation=True, max_length=4).input_ids == [1, 2, 3, 0]


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (ByteLevel(trim_offsets=False), [2, 3, 0]),
        (
            Processors([ByteLevel(), TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 1)])]),
            [1, 2, 3, 0],
        ),
        (None, [2, 3, 0]),
    ],
)
def test_end_token_with_the_processors_that_decoders_have(language_model, processor, expected):
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    if processor is not None:
        tokenizer.backend_tokenizer.post_processor = processor
    append_end_token(tokenizer, END)
    assert tokenizer("w0 w1").input_ids == expected


def test_a_frame_with_an_end_of_its_own_is_refused(language_model):
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.backend_tokenizer.post_processor = BertProcessing(("<unk>", 1), ("w0", 2))
    with pytest.raises(ValueError, match=r"frames its texts by \['BertProcessing'\]"):
        append_end_token(tokenizer, END)


def test_an_end_token_outside_the_vocabulary_is_refused(language_model):
    with pytest.raises(ValueError, match="no token '<other>'"):
        append_end_token(AutoTokenizer.from_pretrained(language_model), "<other>")


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(lengths, tokens_per_batch):
    batches = list(batches_by_length(lengths, tokens_per_batch))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[row] for row in rows)
        assert len(rows) * longest <= tokens_per_batch or len(rows) == 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_no_cuts_cost_less(lengths, tokens_per_batch):
    """Against every way to cut the texts, sorted by length."""
    ordered = sorted(lengths, reverse=True)

    def cost(batches: list[list[int]]) -> float:
        return sum(len(b) * max(b) + BATCH_SHARE * tokens_per_batch for b in batches)

    allowed = []
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        ends = [place + 1 for place, cut in enumerate(cuts) if cut]
        batches = [ordered[a:b] for a, b in itertools.pairwise([0, *ends, len(ordered)])]
        if all(len(b) * max(b) <= tokens_per_batch or len(b) == 1 for b in batches):
            allowed.append(cost(batches))
    found = [[lengths[row] for row in rows] for rows in batches_by_length(lengths, tokens_per_batch)]
    assert cost(found) == pytest.approx(min(allowed))
