"""Prompt and persona files: what the model is shown, what it may answer, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from components.synthesis.draws import Draws
from components.synthesis.prompts import (
    Configuration,
    Message,
    load_personas,
    load_prompts,
    personas_version,
    prompt_version,
)

PROMPTS = load_prompts()
NAMES = PROMPTS.languages
OFFERED = [
    "A cook who salts",
    "A judge who weighs",
    "A pilot who lands",
    "A monk who sings",
    "A diver who sinks",
]
TYPES, LEVELS = list(PROMPTS.retrieval.question_types), list(PROMPTS.retrieval.difficulties)
CHOICE = Configuration(character=OFFERED[0], question_type="keywords", difficulty="phd")

# Every chat about "the text itself", with the schema of its answer.
CHATS: dict[str, tuple[Callable[[str], list[Message]], str]] = {
    "configuration": (
        lambda _: PROMPTS.retrieval.configuration_messages("the text itself", OFFERED, TYPES, LEVELS),
        PROMPTS.retrieval.configuration_schema(OFFERED, TYPES, LEVELS),
    ),
    "query": (
        lambda code: PROMPTS.retrieval.query_messages("the text itself", CHOICE, 7, code, NAMES),
        PROMPTS.retrieval.query_schema(),
    ),
    "bitext_mining": (
        lambda code: PROMPTS.bitext_mining.messages("the text itself", "en", code, NAMES),
        PROMPTS.bitext_mining.answer_schema(),
    ),
    "sts": (
        lambda code: PROMPTS.sts.messages("the text itself", code, "5>2", NAMES),
        PROMPTS.sts.answer_schema(),
    ),
    "classification": (
        lambda code: PROMPTS.classification.messages("the text itself", code, "topic", NAMES),
        PROMPTS.classification.answer_schema(),
    ),
}


def test_the_version_is_the_digest_of_the_file(tmp_path: Path):
    own = files("components.synthesis").joinpath("prompts.yaml").read_bytes()
    copy = tmp_path / "mine.yaml"
    copy.write_bytes(own)
    assert prompt_version() == prompt_version(str(copy)) == hashlib.sha256(own).hexdigest()[:16]
    copy.write_bytes(own + b"# a remark\n")
    assert prompt_version(str(copy)) != prompt_version()


@pytest.mark.parametrize("language", ["en", "de", "zh"])
@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_examples_in_turns_and_ends_with_the_text(name: str, language: str):
    messages, _ = CHATS[name]
    chat = messages(language)
    roles = [message["role"] for message in chat]
    assert roles[0] == "system"
    assert len(roles) >= 8
    assert roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]
    assert "the text itself" in chat[-1]["content"]
    if name != "configuration":
        assert NAMES[language] in chat[-1]["content"]


@pytest.mark.parametrize("name", CHATS)
def test_the_examples_answer_by_the_schema_the_model_must_follow(name: str):
    messages, schema = CHATS[name]
    for language in ("en", "zh", "de"):
        for message in messages(language):
            if message["role"] == "assistant":
                answer = json.loads(message["content"])
                if name == "configuration":  # each example has characters of its own
                    assert set(answer) == {"character", "question_type", "difficulty"}
                else:
                    jsonschema.validate(answer, json.loads(schema))


def test_every_family_shows_examples_of_its_own_language_where_there_are_any():
    query = CHATS["query"][0]("zh")
    classification = CHATS["classification"][0]("zh")
    sts = CHATS["sts"][0]("zh")
    for chat in (query, classification, sts):
        for message in chat[2::2]:
            assert any("\u4e00" <= character <= "\u9fff" for character in message["content"])
    for target, marker in (("zh", "的"), ("de", "wird"), ("fr", "est")):
        translations = [json.loads(message["content"]) for message in CHATS["bitext_mining"][0](target)[2::2]]
        assert any(marker in answer["translation"] for answer in translations)


def test_the_wanted_kind_stands_last():
    for wanted in TYPES:
        choice = Configuration(character=OFFERED[0], question_type=wanted, difficulty="phd")
        shown = PROMPTS.retrieval.query_messages("p", choice, 5, "en", NAMES)[-2]["content"]
        query = json.loads(shown)["query"]
        assert {e.question_type for e in PROMPTS.retrieval.query.examples if e.query == query} == {wanted}
    for aspect in PROMPTS.classification.aspects:
        shown = PROMPTS.classification.messages("p", "en", aspect, NAMES)[-2]["content"]
        label = json.loads(shown)["label"]
        assert {e.aspect for e in PROMPTS.classification.examples if e.label == label} == {aspect}


@pytest.mark.parametrize("levels", ["5>3", "5>1", "4>2"])
def test_sts_shows_sentences_of_the_levels_that_are_asked_for(levels: str):
    high, low = (int(level) for level in levels.split(">"))
    by_sentence = {example.sentence: example.levels for example in PROMPTS.sts.examples}
    chat = PROMPTS.sts.messages("a sentence", "en", levels, NAMES)
    for question, answer in zip(chat[1:-1:2], chat[2::2], strict=True):
        shown = by_sentence[question["content"].splitlines()[0]]
        assert json.loads(answer["content"]) == {"similar": shown[high], "different": shown[low]}
    assert PROMPTS.sts.levels[high] in chat[-1]["content"]
    assert PROMPTS.sts.levels[low] in chat[-1]["content"]


@pytest.mark.parametrize(
    "answer",
    [
        {"character": "A king who rules", "question_type": "keywords", "difficulty": "phd"},
        {"character": OFFERED[0], "question_type": "rhetorical", "difficulty": "phd"},
        {"character": OFFERED[0], "question_type": "keywords"},
        {"character": OFFERED[0], "question_type": "keywords", "difficulty": "phd", "mood": "happy"},
    ],
)
def test_the_schema_admits_only_what_was_offered(answer: dict[str, str]):
    schema = json.loads(PROMPTS.retrieval.configuration_schema(OFFERED, TYPES, LEVELS))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)


def test_the_types_and_difficulties_are_those_of_the_paper():
    assert set(TYPES) == {"keywords", "acquire_knowledge", "summary", "yes_or_no", "background"}
    assert set(LEVELS) == {"high_school", "university", "phd"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["retrieval"]["query"].update(user="{passage} {mood}"), "mood"),
        (lambda file: file["retrieval"]["query"].update(user="only {character}"), "must contain {passage}"),
        (lambda file: file["sts"].update(user="in {language}"), "must contain {sentence}"),
        (lambda file: file["retrieval"].update(question_types={"keywords": "few words"}), "not defined"),
        (lambda file: file["retrieval"]["query"]["examples"][0].pop("query"), "query.examples.0.query"),
        (lambda file: file.update(temperatur=1), "temperatur"),
        (
            lambda file: file["retrieval"]["configuration"]["examples"][0]["characters"].clear(),
            "not among its characters",
        ),
        (lambda file: file["sts"]["levels"].pop(3), "levels must describe"),
        (lambda file: file["classification"]["aspects"].pop("topic"), "aspect 'topic'"),
        (lambda file: file["classification"]["examples"][0]["other_labels"].pop(), "other_labels"),
        (lambda file: file["languages"].pop("zh"), "language 'zh'"),
        (lambda file: file.pop("bitext_mining"), "bitext_mining"),
    ],
)
def test_a_wrong_prompt_file_is_refused_in_one_sentence(tmp_path: Path, change, message: str):
    file = yaml.safe_load(files("components.synthesis").joinpath("prompts.yaml").read_text())
    change(file)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(ValueError, match=message) as raised:
        load_prompts(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_missing_broken_or_too_small_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"synthesis\.prompts.*does not exist"):
        prompt_version(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"synthesis\.personas.*does not exist"):
        personas_version(str(tmp_path / "none.txt"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("query: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_prompts(str(broken))
    few = tmp_path / "few.txt"
    few.write_text("A cook who salts\n\nA cook who salts\nA judge\n")
    with pytest.raises(ValueError, match="holds 2 personas"):
        load_personas(str(few))


def test_a_language_without_a_name_is_refused():
    PROMPTS.check_draws(Draws(query_languages={"zh": 1.0}))
    with pytest.raises(ValueError, match="names no language 'xx'"):
        PROMPTS.check_draws(Draws(query_languages={"xx": 1.0}))
