"""What MLflow is told, in the form in which it takes it."""

from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_param_name

from workflows.engine.tracking import mlflow_name


@given(st.text(max_size=50))
@example("ingredients.docstrings://numpy")
@example("steps/../weak")
@example("ndcg@10")
def test_any_name_becomes_one_that_mlflow_takes(name):
    _validate_param_name(mlflow_name(name))


@given(st.from_regex(r"[a-z_]+(\.[a-z_]+)*(/[a-z_]+)*", fullmatch=True))
def test_a_plain_name_stays_as_it_is(name):
    assert mlflow_name(name) == name
