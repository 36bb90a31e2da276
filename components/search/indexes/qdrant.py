"""Qdrant: points with payload id and text in a collection of their own, which an alias then names; dot product.

The collection is called TABLE-DIGEST, the digest being of all that the vectors are made of, and TABLE is an alias that
is moved when all points are there: clients that ask for TABLE see the old collection until then, never half of one. The
old one is left for its owner to delete. The key of a server that wants one is read from QDRANT_API_KEY.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

from components.monitor import Monitor
from components.search.coded import Coded, Form
from components.search.indexes.place import Place
from components.storage import Folder

_OURS = "embedloom"
_MADE_OF = (
    "weights_digest",
    "space_id",
    "source",
    "text",
    "id",
    "side",
    "instruction",
    "compute",
    "dimensions",
)
_POINTS = uuid.UUID("c5b1e1f0-6d0c-4f0e-9a53-2f6f0f1d7a11")


def check(form: Form, place: Place, output: Folder) -> None:
    if form.precision != "float32":
        raise ValueError(
            "Qdrant quantises by itself and keeps the float32 vectors to order by: leave --precision float32, "
            "and set quantization_config of the collection"
        )
    with _client(place, output) as client:
        if place.table in {each.name for each in client.get_collections().collections}:
            raise ValueError(
                f"Qdrant has a collection {place.table!r}, where an alias of that name is to be: choose another --table"
            )


def write(coded: Coded, facts: dict[str, Any], place: Place, output: Folder, monitor: Monitor) -> None:
    from qdrant_client import models

    def points() -> Iterator[models.PointStruct]:
        done = 0
        for rows, code_ND in coded.shards():
            for row, vector_D in zip(rows.to_pylist(), code_ND.tolist(), strict=True):
                point = str(uuid.uuid5(_POINTS, row["id"]))
                yield models.PointStruct(
                    id=point, vector=vector_D, payload={"id": row["id"], "text": row["text"]}
                )
            done += rows.num_rows
            monitor.progress(done, coded.rows, "vectors")

    collection = collection_name(facts, place)
    with _client(place, output) as client:
        if not client.collection_exists(collection):
            size = models.VectorParams(size=coded.dimensions, distance=models.Distance.DOT)
            client.create_collection(collection, vectors_config=size, metadata={_OURS: facts})
        client.upload_points(collection, points(), wait=True)
        moves: list[Any] = []
        if place.table in {each.alias_name for each in client.get_aliases().aliases}:
            moves.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=place.table)))
        alias = models.CreateAlias(collection_name=collection, alias_name=place.table)
        client.update_collection_aliases([*moves, models.CreateAliasOperation(create_alias=alias)])


def collection_name(facts: dict[str, Any], place: Place) -> str:
    """The collection that holds these vectors."""
    made_of = json.dumps([facts[name] for name in _MADE_OF]).encode()
    return f"{place.table}-{hashlib.sha256(made_of).hexdigest()[:12]}"


@contextlib.contextmanager
def _client(place: Place, output: Folder) -> Iterator[Any]:
    try:
        from qdrant_client import QdrantClient
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ModuleNotFoundError as error:
        raise ValueError("--to qdrant needs its client: pip install embedloom[qdrant]") from error
    if place.at and "://" in place.at:
        client = QdrantClient(
            url=place.at, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False
        )
    elif place.at or output.is_local:
        client = QdrantClient(path=place.at or (output / "qdrant").path())
    else:
        raise ValueError(
            f"--at says where Qdrant is, as http://HOST:6333; {output.uri} is not on this machine"
        )
    try:
        yield client
    except (ResponseHandlingException, UnexpectedResponse) as error:
        raise ValueError(f"Qdrant at {place.at}: {error}") from error
    finally:
        client.close()
