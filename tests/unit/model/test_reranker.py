"""Both kinds of reranker against the libraries that they come from: transformers, sentence-transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.model.pair_tokens import Tokens
from components.model.prompt import RerankerSpec, chat_spec
from components.model.reranker import YesNoReranker, load_reranker
from components.model.shared_prefix import shared_row

QUERIES = ["how to sort a list", "", "a {document} in braces", "q", "what is a query " * 40]
DOCUMENTS = ["list.sort sorts in place", "no query, still a document", "{query}", "", "the document " * 60]
INSTRUCTIONS = ["Find the function", None, None, "", None]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return write_yes_no_model(tmp_path_factory.mktemp("yes-no"))


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return write_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


def published_score(directory, query, document, instruction, length):
    """The example of the model card of Qwen3-Reranker, one pair at a time."""
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    if instruction is None:
        instruction = "Given a web search query, retrieve relevant passages that answer the query"
    text = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    prefix_ids = tokenizer.encode(prefix, add_special_tokens=False)
    suffix_ids = tokenizer.encode(suffix, add_special_tokens=False)
    body = tokenizer(text, truncation="longest_first", max_length=length - len(prefix_ids) - len(suffix_ids))
    ids = torch.tensor([prefix_ids + body["input_ids"] + suffix_ids])
    with torch.no_grad():
        logits = model(ids).logits[:, -1, :]
    two = torch.stack([logits[:, tokenizer.convert_tokens_to_ids(word)] for word in ("no", "yes")], dim=1)
    return torch.nn.functional.log_softmax(two, dim=1)[0, 1].exp().item(), ids.shape[1]


@pytest.mark.parametrize("length", [2048, 500])
def test_scores_are_those_of_the_published_code(language_model, length):
    reranker = load_reranker(language_model, length=length)
    found = reranker.score(QUERIES, DOCUMENTS, INSTRUCTIONS)
    rows = zip(QUERIES, DOCUMENTS, INSTRUCTIONS, strict=True)
    expected, lengths = zip(*(published_score(language_model, *row, length) for row in rows), strict=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 0.1  # the model has opinions
    assert max(lengths) == 500 if length == 500 else max(lengths) > 500


@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_padding_nor_company_changes_a_score(language_model, side):
    spec = RerankerSpec(length=700, padding_side=side)
    reranker = load_reranker(language_model, spec=spec)
    alone = [
        reranker.score([query], [document], [instruction])[0]
        for query, document, instruction in zip(QUERIES, DOCUMENTS, INSTRUCTIONS, strict=True)
    ]
    for tokens_per_batch in (1, 1500, 100_000):
        together = reranker.score(QUERIES, DOCUMENTS, INSTRUCTIONS, tokens_per_batch)
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_only_the_last_position_reaches_the_head(language_model):
    reranker = load_reranker(language_model)
    shapes = []
    reranker.model.get_output_embeddings().register_forward_hook(
        lambda _, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    reranker.score(QUERIES, DOCUMENTS, INSTRUCTIONS, 100_000)
    assert shapes == [(len(QUERIES), 1, 32)]


def test_texts_that_share_a_row_are_computed_as_if_alone(language_model):
    """Logits and gradients, in float64; two rows of different length, with what their texts share computed once."""
    reranker = load_reranker(language_model, torch.float64)
    assert reranker.shares_prefixes
    queries, documents = [*["how to sort"] * 3, *["what is a query"] * 2], DOCUMENTS
    ids = [text.ids for text in reranker.tokenize(queries, documents, [None] * 5)]
    rows = [shared_row(ids[:3]), shared_row(ids[3:])]
    assert sum(map(len, rows)) < sum(map(len, ids)) - 3 * 200
    parameters = list(reranker.parameters())

    def gradients(logits_NV):
        return torch.autograd.grad(torch.log_softmax(logits_NV, 1).square().sum(), parameters)

    alone_NV = torch.cat([reranker.last_logits(*reranker.pad([Tokens(each, each)])[:2]) for each in ids])
    together_NV = reranker.logits_of_rows(rows)
    torch.testing.assert_close(together_NV, alone_NV, rtol=1e-9, atol=1e-9)
    for found, expected in zip(gradients(together_NV), gradients(alone_NV), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)  # norms are float32


def test_prefix_and_suffix_are_never_cut(language_model):
    reranker = load_reranker(language_model, length=450)
    assert isinstance(reranker, YesNoReranker)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    for ids, _ in reranker.tokenize(QUERIES, DOCUMENTS, INSTRUCTIONS):
        text = tokenizer.decode(ids)
        assert len(ids) <= 450
        assert text.startswith(reranker.spec.prefix)
        assert text.endswith(reranker.spec.suffix)


def test_training_mode_comes_back(language_model):
    reranker = load_reranker(language_model)
    assert not reranker.training
    reranker.train()
    reranker.score(["a"], ["b"], [None])
    assert reranker.training


@pytest.mark.parametrize(
    "kind", ["bert", "deberta-v2"]
)  # the latter has no attention by torch's own function
def test_cross_encoder_agrees_with_sentence_transformers(tmp_path, kind):
    cross_encoder = write_cross_encoder(tmp_path, kind=kind)
    reranker = load_reranker(cross_encoder)
    assert reranker.length == 32
    peer = PeerCrossEncoder(str(cross_encoder), device="cpu")
    expected = peer.predict(list(zip(QUERIES, DOCUMENTS, strict=True)), activation_fn=torch.nn.Sigmoid())
    found = reranker.score(QUERIES, DOCUMENTS, INSTRUCTIONS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected) > 0.01
    alone = [reranker.score([q], [d], [None])[0] for q, d in zip(QUERIES, DOCUMENTS, strict=True)]
    np.testing.assert_allclose(reranker.score(QUERIES, DOCUMENTS, INSTRUCTIONS, 1), alone, atol=1e-5)


def test_chat_spec_frames_the_body_as_the_model_was_taught(language_model):
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.chat_template = CHATML
    spec = chat_spec(tokenizer, "Judge.\n{query}\n{document}", "\nyes or no?", 512)
    whole = spec.prefix + spec.format_body("q", "d {query}") + spec.suffix
    assert whole == ("<|im_start|>user\nJudge.\nq\nd {query}\nyes or no?<|im_end|>\n<|im_start|>assistant\n")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        chat_spec(tokenizer, "{query} {document}", "", 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"yes": "perhaps"}, "the answer 'perhaps' is 6 tokens"),
        ({"yes": "no"}, "are one token"),
        ({"length": 60}, "leaves no room beside"),
        ({"length": 4096}, "length is 4096, above the model's 2048 positions"),
    ],
)
def test_a_spec_that_does_not_fit_the_model_is_refused(language_model, changes, message):
    with pytest.raises(ValueError, match=message):
        load_reranker(language_model, spec=replace(RerankerSpec(length=2048), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body": "{query}"}, "body must hold"),
        ({"body": "{document} {query}"}, "body must hold"),
        ({"length": 0}, "length must be a whole number"),
        ({"padding_side": "top"}, "padding_side must be one of"),
        ({"yes": None}, "yes must be a text"),
    ],
)
def test_a_spec_that_says_nothing_sensible_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RerankerSpec(**changes)


def test_what_is_no_reranker_is_refused(language_model, cross_encoder, minilm_directory, tmp_path):
    with pytest.raises(ValueError, match="holds no reranker"):
        load_reranker(tmp_path)
    with pytest.raises(ValueError, match="holds a BertModel"):
        load_reranker(minilm_directory)
    with pytest.raises(ValueError, match="this model has 3"):
        load_reranker(write_cross_encoder(tmp_path / "three", num_labels=3))
    with pytest.raises(ValueError, match="reads a query and a document, no prompt"):
        load_reranker(cross_encoder, spec=RerankerSpec())
