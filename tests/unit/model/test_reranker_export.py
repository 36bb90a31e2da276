"""A reranker's directory in the libraries that open it: the same scores everywhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from components.model.embedder import Embedder
from components.model.prompt import RerankerSpec
from components.model.reranker import CrossEncoder, YesNoClassifier, YesNoReranker, load_reranker
from components.model.reranker_export import check_golden_scores, export_classifier
from components.model.reranker_source import import_reranker
from components.monitor import Silent
from components.storage import Folder
from workflows.cli import app

QUERIES = ["how to sort a list", "", "a {document} in braces", "q", "what is a query"]
DOCUMENTS = ["list.sort sorts in place", "no query", "{query}", "", "the document " * 200]
NONE = [None] * len(QUERIES)


def bring_in(source: Path, target: Path, **spec) -> Path:
    import_reranker(model=str(source), spec=spec, output=Folder(str(target)), monitor=Silent())
    return target


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("yes-no")
    source = write_yes_no_model(directory / "source")
    return bring_in(source, directory / "reranker", length=600, instruction='Find "it" {{ now }}\n')


@pytest.fixture(scope="module")
def classifier(language_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("classifier") / "model"
    export_classifier(language_model, directory)
    return directory


def test_the_classifier_scores_as_the_language_model_does(language_model, classifier):
    reranker, single = load_reranker(language_model), load_reranker(classifier)
    assert isinstance(reranker, YesNoReranker)
    assert isinstance(single, YesNoClassifier)
    assert single.spec == reranker.spec
    expected = reranker.score(QUERIES, DOCUMENTS, NONE)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(single.score(QUERIES, DOCUMENTS, NONE), expected, atol=1e-5)
    tokens = reranker.tokenize(QUERIES, DOCUMENTS, NONE)
    assert max(len(each.ids) for each in tokens) == 600  # one was cut


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_texts_begin_with_alike_is_computed_once(language_model, classifier, side):
    for directory in (language_model, classifier):
        spec = replace(load_reranker(directory).spec, padding_side=side)
        reranker = load_reranker(directory, spec=spec)
        rows = zip(QUERIES, DOCUMENTS, strict=True)
        alone = [reranker.score([query], [document], [None])[0] for query, document in rows]
        lengths = []
        reranker.model.base_model.register_forward_pre_hook(
            lambda _, __, given, seen=lengths: seen.append(tuple(given["input_ids"].shape)), with_kwargs=True
        )
        for tokens_per_batch in (10**6, 1000):
            found = reranker.score(QUERIES, DOCUMENTS, NONE, tokens_per_batch)
            np.testing.assert_allclose(found, alone, atol=1e-5)
        prefix, *rest = lengths
        assert prefix[0] == 1
        assert prefix[1] > 100
        assert max(tokens for _, tokens in rest[:1]) + prefix[1] == 600


def test_transformers_opens_the_classifier(language_model, classifier):
    reranker = load_reranker(language_model)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    ids = [each.ids for each in reranker.tokenize(QUERIES, DOCUMENTS, NONE)]
    padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        found = torch.sigmoid(model(**padded).logits[:, 0])
    np.testing.assert_allclose(found, reranker.score(QUERIES, DOCUMENTS, NONE), atol=1e-5)


def test_sentence_transformers_opens_both_forms(language_model, classifier):
    """By the chat template it builds the published prompt, and cuts in its middle."""
    expected = load_reranker(language_model).score(QUERIES, DOCUMENTS, NONE)
    for directory in (language_model, classifier):
        peer = PeerCrossEncoder(str(directory), device="cpu")
        found = peer.predict(list(zip(QUERIES, DOCUMENTS, strict=True)))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_of_the_chat_template_is_that_of_the_spec(language_model):
    spec = RerankerSpec(instruction='Find "it" {{ now }}\n')
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    messages = [{"role": "query", "content": "q {document}"}, {"role": "document", "content": "d {{ 1 }}"}]

    def rendered(messages):
        return tokenizer.apply_chat_template(messages, tokenize=False)

    body = spec.format_body("q {document}", "d {{ 1 }}")
    assert rendered(messages) == spec.prefix + body + spec.suffix
    other = rendered([{"role": "system", "content": "Otherwise"}, *messages])
    assert other == spec.prefix + spec.format_body("q {document}", "d {{ 1 }}", "Otherwise") + spec.suffix


def test_an_encoder_gets_a_head(minilm_directory, tmp_path):
    encoder = bring_in(minilm_directory, tmp_path / "encoder", length=64)
    again = bring_in(minilm_directory, tmp_path / "again", length=64)
    reranker = load_reranker(encoder)
    assert isinstance(reranker, CrossEncoder)
    assert reranker.length == 64
    hidden = Embedder.load(minilm_directory).backbone.state_dict()
    for name, tensor in reranker.model.base_model.state_dict().items():
        if name in hidden:
            assert tensor.equal(hidden[name]), name
    found = reranker.score(QUERIES, DOCUMENTS, NONE)
    np.testing.assert_array_equal(load_reranker(again).score(QUERIES, DOCUMENTS, NONE), found)
    peer = PeerCrossEncoder(str(encoder), device="cpu")
    np.testing.assert_allclose(peer.predict(list(zip(QUERIES, DOCUMENTS, strict=True))), found, atol=1e-5)


def test_golden_scores_tell_another_model(language_model, classifier, tmp_path):
    assert check_golden_scores(load_reranker(classifier), classifier) < 1e-5
    other = load_reranker(classifier)
    with torch.no_grad():
        other.model.score.weight *= 1.5
    with pytest.raises(ValueError, match="does not get the score recorded"):
        check_golden_scores(other, classifier)
    with pytest.raises(ValueError, match=r"holds no golden\.json"):
        check_golden_scores(other, tmp_path)


def test_the_scorer_id_goes_by_weights_and_prompt(language_model, classifier, tmp_path):
    def scorer_id(directory):
        return json.loads((directory / "reranker.json").read_text())["scorer_id"]

    prompted = bring_in(language_model, tmp_path / "other", instruction="Another")
    again = bring_in(language_model, tmp_path / "again")
    assert scorer_id(again) == scorer_id(language_model)
    assert len({scorer_id(directory) for directory in (language_model, classifier, prompted)}) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instruction", "Another"),
        ("prefix", "judge:\n"),
        ("body", "<Query>: {query}\n<Document>: {document}"),
        ("suffix", "\nanswer: "),
        ("length", 700),
        ("no", "the"),
    ],
)
def test_a_changed_prompt_is_refused_with_the_field(language_model, tmp_path, field, value):
    shutil.copytree(language_model, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "reranker.json"
    written = json.loads(path.read_text())
    written["spec"]["prompt"][field] = value
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=rf"^{field} is .* in .*reranker\.json and .* in golden\.json"):
        load_reranker(tmp_path)
    (tmp_path / "golden.json").unlink()
    with pytest.raises(ValueError, match=rf"^{field} is .* in .*reranker\.json and .* in (?!golden)"):
        load_reranker(tmp_path)


def test_a_prompt_is_read_from_what_sentence_transformers_reads(language_model, classifier, tmp_path):
    """As a published reranker tells it: a chat template with roles, and the answers of a LogitScore."""
    for number, directory in enumerate((language_model, classifier)):
        published = tmp_path / f"published-{number}"
        shutil.copytree(directory, published)
        for name in ("reranker.json", "golden.json"):
            (published / name).unlink()
        brought = bring_in(published, tmp_path / f"ours-{number}", length=600)
        for name in ("reranker.json", "golden.json"):
            assert json.loads((brought / name).read_text()) == json.loads((directory / name).read_text())


def test_the_command_brings_rerankers_in(language_model, tmp_path):
    source = write_yes_no_model(tmp_path / "source")
    command = ["import", str(source), "--spec", "length=600", "--spec", 'instruction=Find "it" {{ now }}\n']
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "model"), "--as", "reranker"])
    assert done.exit_code == 0, done.output
    assert "<Document>:{document}" in "".join(done.output.split())
    assert (
        load_reranker(tmp_path / "model").tokenize.digest() == load_reranker(language_model).tokenize.digest()
    )
    # its files say now that it is a reranker
    done = CliRunner().invoke(app, ["import", str(tmp_path / "model"), "-o", str(tmp_path / "again")])
    assert "reranker: " in done.output
    done = CliRunner().invoke(
        app, ["import", str(tmp_path / "model"), "-o", str(tmp_path / "one"), "--as", "classifier"]
    )
    assert done.exit_code == 0, done.output
    single = load_reranker(tmp_path / "one")
    assert isinstance(single, YesNoClassifier)
    expected = load_reranker(language_model).score(QUERIES, DOCUMENTS, NONE)
    np.testing.assert_allclose(single.score(QUERIES, DOCUMENTS, NONE), expected, atol=1e-5)
    wrong = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "x"), "--as", "ranker"])
    assert "--as is 'ranker'" in str(wrong.exception)


def test_the_answers_are_kept_as_ids_and_another_tokenizer_is_noticed(language_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    ids = json.loads((language_model / "reranker.json").read_text())["answer_ids"]
    assert ids == {"yes": tokenizer.convert_tokens_to_ids("yes"), "no": tokenizer.convert_tokens_to_ids("no")}
    shutil.copytree(language_model, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    words = vocabulary["model"]["vocab"]
    words["yes"], words["no"] = words["no"], words["yes"]
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(ValueError, match=r"^yes is 'yes' in .*reranker\.json and 'no' in answer_ids of"):
        load_reranker(tmp_path)


def test_what_does_not_fit_is_refused(language_model, minilm_directory, tmp_path):
    source = write_yes_no_model(tmp_path / "source")
    with pytest.raises(ValueError, match="the answer 'perhaps' is 6 tokens"):
        bring_in(source, tmp_path / "out", yes="perhaps")
    with pytest.raises(ValueError, match="suffix belongs to the prompt of a language model"):
        bring_in(minilm_directory, tmp_path / "out", suffix="x")
    with pytest.raises(ValueError, match="temperature is no field"):
        bring_in(source, tmp_path / "out", temperature=1)
    with pytest.raises(ValueError, match="holds no language model that says yes or no"):
        export_classifier(write_cross_encoder(tmp_path / "encoder"), tmp_path / "out")
