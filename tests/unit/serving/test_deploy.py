from pathlib import Path

import yaml
from ray.serve.schema import ServeDeploySchema

from components.serving import deploy
from components.serving.app import GatewayArguments, ModelArguments
from components.serving.keys import ApiKey
from components.serving.options import ServiceOptions
from components.serving.release import Release
from components.serving.routes import Route, Routes

RELEASE = Release("docs", "3", "models:/docs/3", "d" * 64, "http://mlflow:5000")
ROOT = Path(__file__).parents[3]


def test_what_is_deployed_is_what_serve_and_the_builders_take():
    options = ServiceOptions(keys=(ApiKey("a", "0" * 64),), max_replicas=3)
    routes = Routes().with_route(Route("docs", "embedding", "3", {"3": RELEASE.application}))
    applications = [
        deploy.model_application(RELEASE, options),
        deploy.documents_application("documents.parquet"),
        deploy.gateway_application(routes, options),
    ]
    config = deploy.base_config(options) | {"applications": applications}
    read = ServeDeploySchema.model_validate(config)
    assert read.http_options.host == "127.0.0.1"
    assert Release(**ModelArguments(**applications[0]["args"]).release) == RELEASE
    assert GatewayArguments(**applications[2]["args"]).listen == ["127.0.0.1", 8000]


def test_the_file_for_clusters_is_of_the_same_form():
    config = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text("utf-8"))
    read = ServeDeploySchema.model_validate(config)
    assert read.http_options.host == "127.0.0.1"
    model, gateway = config["applications"]
    release = Release(**ModelArguments(**model["args"]).release)
    routes = Routes.from_config(gateway["deployments"][0]["user_config"]["routes"])
    assert GatewayArguments(**gateway["args"]).listen is None
    assert routes.applications() == {model["name"]} == {release.application}
