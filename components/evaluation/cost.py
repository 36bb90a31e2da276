"""What a model took to be trained, and what it has beside its backbone."""

from collections.abc import Mapping

import pyarrow.compute as pc

from components.evaluation.systems_table import Cost
from components.merge.weights import Weights
from components.model.embedder import POOLING_FILE
from components.storage import Folder


def read_cost(model: Folder, stages: Mapping[str, Folder], batches: Mapping[str, Folder]) -> Cost:
    """The cost of a model, from what the steps that made it left.

    Args:
        model: a model directory.
        stages: outputs of training stages. batches: of the plans of these.
    """
    histories = [folder.read_table("history.parquet", columns=["step_seconds"]) for folder in stages.values()]
    plans = [folder.read_table("batches.parquet", columns=["tokens"]) for folder in batches.values()]
    with model.local() as directory:
        # What lies below is the projection again, as sentence-transformers reads it.
        entries = [entry for entry in Weights(directory).entries.values() if "/" not in entry.file]
    return Cost(
        seconds=float(sum(pc.sum(table["step_seconds"]).as_py() for table in histories)),
        tokens=sum(pc.sum(table["tokens"]).as_py() for table in plans),
        parameters=sum(entry.elements for entry in entries),
        parameters_added=sum(entry.elements for entry in entries if entry.file == POOLING_FILE),
    )
