"""The reranker's filter and the judge's against transformers and sentence-transformers, pair by pair."""

import pytest
import torch
from filter_pairs import BAD, outcome, pair, run, write_pairs
from sentence_transformers import CrossEncoder
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.model.reranker import load_reranker
from components.pairs.filters.judge import filter_by_judge
from components.pairs.filters.reranker import filter_by_reranker
from components.storage import Folder

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def judge_directory(tmp_path_factory):
    directory = write_yes_no_model(tmp_path_factory.mktemp("judge"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def cross_encoder_directory(tmp_path_factory):
    return write_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


def sound(rows):
    return [row for row in rows if row["pair_id"] not in BAD]


def test_a_cross_encoder_keeps_what_it_believes(pairs, rows, cross_encoder_directory, output, monitor):
    peer = CrossEncoder(str(cross_encoder_directory), device="cpu")
    texts = [(row["query"], row["positive"]) for row in sound(rows)]
    scores = peer.predict(texts, activation_fn=torch.nn.Sigmoid()).tolist()
    expected = dict(zip((row["pair_id"] for row in sound(rows)), scores, strict=True))
    threshold = sorted(scores)[8] - 1e-6
    numbers = run(
        filter_by_reranker,
        pairs=pairs,
        model=Folder(str(cross_encoder_directory)),
        threshold=threshold,
        output=output,
        monitor=monitor,
    )
    kept, rejected, reasons = outcome(output)
    scored = {key: score for key, score in rejected.items() if key not in BAD}
    assert kept | scored == pytest.approx(expected, abs=1e-5)
    assert kept.keys() == {key for key, score in expected.items() if score >= threshold}
    assert reasons == BAD | dict.fromkeys(scored, "below_cut")
    assert (numbers["rows_in"], numbers["rows_out"], numbers["rejected_below_cut"]) == (23, 12, 8)
    assert monitor.figures == ["filter_scores.png"]


def test_a_pair_brings_its_instruction_to_the_reranker(pairs, rows, judge_directory, output, monitor):
    run(
        filter_by_reranker,
        pairs=pairs,
        model=Folder(str(judge_directory)),
        quantile=0.5,
        output=output,
        monitor=monitor,
    )
    kept, rejected, _ = outcome(output)
    reranker = load_reranker(judge_directory)
    for row in sound(rows):
        (expected,) = reranker.score([row["query"]], [row["positive"]], [row["instruction"]])
        (bare,) = reranker.score([row["query"]], [row["positive"]], [None])
        assert (kept | rejected)[row["pair_id"]] == pytest.approx(expected, abs=1e-5)
        assert (abs(expected - bare) > 1e-4) == (row["instruction"] is not None)
    assert len(kept) == 10


def test_the_judge_is_asked_its_own_question_in_a_chat_turn(tmp_path, rows, judge_directory, output, monitor):
    few = sound(rows)[:6]
    tokenizer = AutoTokenizer.from_pretrained(judge_directory)
    model = AutoModelForCausalLM.from_pretrained(judge_directory, dtype=torch.float64).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = {}
    for row in few:
        words = (
            f"Say whether it fits.\n\nQuery: {row['query']}\n\nPassage: {row['positive']}\n\nDoes the passage answer "
            "the query? Reply with one word, yes or no."
        )
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": words}], add_generation_prompt=True, return_dict=False
        )
        with torch.no_grad():
            logits_V = model(torch.tensor([ids])).logits[0, -1]
        expected[row["pair_id"]] = torch.sigmoid(logits_V[yes] - logits_V[no]).item()
    numbers = run(
        filter_by_judge,
        pairs=write_pairs(Folder(str(tmp_path / "few")), few),
        model=Folder(str(judge_directory)),
        instruction="Say whether it fits.",
        threshold=None,
        quantile=0.4,
        precision="float32",
        output=output,
        monitor=monitor,
    )
    kept, rejected, _ = outcome(output)
    assert kept | rejected == pytest.approx(expected, abs=1e-5)
    assert numbers["rows_out"] == 4


def test_a_long_passage_loses_its_end_and_the_question_stays(tmp_path, judge_directory, output, monitor):
    long = [pair(0, "query", "the document " * 500), pair(1, "query", "the document " * 600)]
    run(
        filter_by_judge,
        pairs=write_pairs(Folder(str(tmp_path / "long")), long),
        model=Folder(str(judge_directory)),
        threshold=0.0,
        length=400,
        precision="float32",
        output=output,
        monitor=monitor,
    )
    kept = output.read_table("pairs.parquet")["measured"].to_pylist()
    assert kept[0] == pytest.approx(kept[1], abs=1e-5)  # cut to the same text


def test_models_of_another_kind_are_refused(pairs, model_directory, cross_encoder_directory, output, monitor):
    settings = {"pairs": pairs, "output": output, "monitor": monitor}
    with pytest.raises(ValueError, match="a reranker is a causal language model or a sequence classifier"):
        run(filter_by_reranker, model=Folder(str(model_directory)), threshold=0.5, **settings)
    with pytest.raises(ValueError, match="no chat template; a judge must be an instruct model"):
        run(filter_by_judge, model=Folder(str(cross_encoder_directory)), **settings)
    with pytest.raises(ValueError, match="give either threshold or quantile"):
        run(filter_by_judge, model=Folder(str(cross_encoder_directory)), quantile=0.1, **settings)
