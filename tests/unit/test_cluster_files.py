"""The files in cluster/ and mlflow/ against the schemas of their readers, against the code, and against one another."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from typer.main import get_command

from workflows import cli, jobs, profile
from workflows.engine.step import resolve
from workflows.recipe import load as recipes

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"


def documents(path: Path) -> list[dict]:
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]


def document(name: str) -> dict:
    [found] = documents(KUBERAY / f"{name}.yaml")
    return found


@cache
def schema(kind: str) -> dict:
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's schema is not here: {path}")
    definition = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    return strict(version["schema"]["openAPIV3Schema"])


def strict(node: dict) -> dict:
    """A schema that refuses what the API server would drop without a word: fields that it does not know."""
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        node = {**node, "additionalProperties": False}
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return {
        key: {name: strict(each) for name, each in value.items()}
        if key == "properties"
        else strict(value)
        if key in ("items", "additionalProperties") and isinstance(value, dict)
        else value
        for key, value in node.items()
    }


def templates(value: object) -> list[dict]:
    """Every pod template in a manifest."""
    found = []
    if isinstance(value, dict):
        if "spec" in value and isinstance(value["spec"], dict) and "containers" in value["spec"]:
            found.append(value)
        found += [template for each in value.values() for template in templates(each)]
    elif isinstance(value, list):
        found += [template for each in value for template in templates(each)]
    return found


KUBERNETES = [*documents(KUBERAY / "network-policy.yaml")] + [
    each for path in sorted((ROOT / "mlflow" / "kubernetes").glob("*.yaml")) for each in documents(path)
]
MONITORS = documents(ROOT / "cluster" / "monitoring" / "podmonitors.yaml")
RAY = [document(name) for name in ("raycluster", "rayjob", "rayservice")]
TEMPLATES = templates([*RAY, *KUBERNETES])


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_kuberay_takes_the_manifest_and_knows_every_field(name):
    given = document(name)
    jsonschema.validate(given, schema(given["kind"]))


def test_a_misspelt_field_would_be_refused():
    given = document("raycluster")
    given["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePullPolice"):
        jsonschema.validate(given, schema("RayCluster"))


def test_the_pods_of_mlflow_are_pods():
    """Judged by the pod template in KubeRay's schema, which is Kubernetes' own."""
    pod = schema("RayCluster")["properties"]["spec"]["properties"]["headGroupSpec"]["properties"]["template"]
    for template in templates(KUBERNETES):
        jsonschema.validate(
            {"spec": template["spec"]}, {**pod, "properties": {"spec": pod["properties"]["spec"]}}
        )


def test_ray_takes_the_launcher_s_file():
    given = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text("utf-8"))
    schema_file = Path(ray.autoscaler.__file__).parent / "ray-schema.json"
    jsonschema.validate(given, json.loads(schema_file.read_text("utf-8")))
    assert given["head_node_type"] in given["available_node_types"]


def test_a_job_has_the_cluster_that_stays():
    assert document("rayjob")["spec"]["rayClusterSpec"] == document("raycluster")["spec"]


def options(command: str) -> tuple[str, dict[str, str]]:
    """The command of the project that a line calls, and what it is given."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "workflows.cli"]
    found = get_command(cli.app).commands[words[3]]
    parsed = found.make_context(words[3], words[4:], resilient_parsing=True)
    return found.name, parsed.params


def test_what_the_job_calls_is_there():
    spec = document("rayjob")["spec"]
    command, given = options(spec["entrypoint"])
    assert command == "run"
    assert given["profile"] in profile.PROFILES
    recipes.load(given["recipe"])
    assert given["root"] == environment(document("raycluster"))["EMBEDLOOM_ROOT"]
    assert given["tracking_uri"] == environment(document("raycluster"))["MLFLOW_TRACKING_URI"]
    assert int(environment(document("raycluster"))["RAY_JOB_STOP_WAIT_TIME_S"]) == jobs.STOP_WAIT_S


def environment(manifest: dict) -> dict[str, str]:
    [*_, last] = templates(manifest)
    return {each["name"]: each["value"] for each in last["spec"]["containers"][0]["env"]}


def test_drivers_go_to_the_coordinator_wherever_it_is_written():
    assert json.loads(document("rayjob")["spec"]["entrypointResources"]) == {jobs.COORDINATOR: 1}
    groups = {each["groupName"]: each for each in document("raycluster")["spec"]["workerGroupSpecs"]}
    offered = {
        name: json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
        for name, group in groups.items()
    }
    assert [name for name, each in offered.items() if jobs.COORDINATOR in each] == ["coordinator"]
    assert groups["coordinator"]["minReplicas"] >= 1
    nodes = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text("utf-8"))["available_node_types"]
    assert [name for name, each in nodes.items() if jobs.COORDINATOR in each["resources"]] == ["coordinator"]
    assert f'"{jobs.COORDINATOR}"' in (ROOT / "cluster" / "local" / "start.sh").read_text()
    head = document("raycluster")["spec"]["headGroupSpec"]["rayStartParams"]
    assert head["num-cpus"] == "0"


def test_what_ray_is_told_a_pod_has_is_what_kubernetes_gives_it():
    for manifest in (document("raycluster")["spec"], document("rayservice")["spec"]["rayClusterConfig"]):
        for group in manifest["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            told = group["rayStartParams"]
            assert told["num-cpus"] in ("0", limits["cpu"])
            assert told.get("num-gpus") == limits.get("nvidia.com/gpu")


def test_the_profile_fits_the_cluster():
    cluster = profile.PROFILES["cluster"]
    groups = document("raycluster")["spec"]["workerGroupSpecs"]

    def most(resource: str) -> int:
        return sum(int(group["rayStartParams"].get(resource, 0)) * group["maxReplicas"] for group in groups)

    assert cluster.maximum_cpus == most("num-cpus")
    assert cluster.maximum_gpus == most("num-gpus")
    [gpu] = [group["rayStartParams"] for group in groups if group["groupName"] == "gpu"]
    for cpus, gpus in (
        (cluster.cpus_per_worker, cluster.gpus_per_worker),
        (cluster.encoder_cpus, cluster.encoder_gpus),
        (cluster.writer_cpus, cluster.writer_gpus),
    ):  # as many of each as a node has GPUs for
        assert cpus * int(gpu["num-gpus"]) / gpus <= int(gpu["num-cpus"])


def test_a_service_on_kubernetes_is_the_service_of_serve_yaml():
    from ray.serve.schema import ServeDeploySchema

    here = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text("utf-8"))
    there = yaml.safe_load(document("rayservice")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(there)
    for application in there["applications"]:
        assert resolve(application["import_path"])
    gateway = there["applications"][-1]["deployments"][0]["user_config"]
    assert there["http_options"]["host"] == "0.0.0.0"
    assert gateway["keys"], "it listens to others than this machine, so it wants keys"
    there["http_options"]["host"], gateway["keys"] = here["http_options"]["host"], []
    for config in (here, there):
        release = config["applications"][0]
        del release["args"]["release"]["tracking_uri"], release["deployments"][0]["ray_actor_options"]
    assert here == there


def secrets(value: object) -> set[tuple[str, str]]:
    """(secret, key) that a manifest refers to; the key is empty where all of it is taken."""
    found: set[tuple[str, str]] = set()
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "secretRef":
                found.add((each["name"], ""))
            elif key in ("secretKeyRef", "credentials"):
                found.add((each["name"], each["key"]))
            elif key == "authOptions":
                found.add((each["secretName"], "auth_token"))
            found |= secrets(each)
    elif isinstance(value, list):
        found = {pair for each in value for pair in secrets(each)}
    return found


def test_every_secret_is_made_by_the_commands_in_the_docs():
    said = (ROOT / "docs" / "operations.md").read_text("utf-8").replace("\\\n", " ")
    made = {
        name: set(re.findall(r"--from-literal=(\w+)=", rest))
        for name, rest in re.findall(r"create secret generic (\S+)(.*)", said)
    }
    for name, key in secrets([*RAY, *KUBERNETES, *MONITORS]):
        assert name in made
        assert not key or key in made[name]


def test_no_secret_stands_in_a_file():
    for path in [*KUBERAY.glob("*"), *(ROOT / "mlflow").rglob("*"), ROOT / "cluster" / "aws.yaml"]:
        for line in path.read_text().splitlines() if path.is_file() else ():
            given = re.search(r"(?i)(?:password|secret_key|token): *['\"]?([\w/+]{8,})", line)
            assert given is None or line.lstrip().startswith("#"), f"{path}: {line}"


def test_every_policy_is_about_pods_that_there_are():
    labels = [template.get("metadata", {}).get("labels", {}) for template in TEMPLATES]
    for policy in documents(KUBERAY / "network-policy.yaml"):
        spec = policy["spec"]
        peers = [
            peer
            for rule in [*spec.get("ingress", []), *spec.get("egress", [])]
            for peer in [*rule.get("from", []), *rule.get("to", [])]
            if "namespaceSelector" not in peer
        ]
        for selector in [
            spec["podSelector"],
            *(peer["podSelector"] for peer in peers if "podSelector" in peer),
        ]:
            wanted = selector.get("matchLabels", {}).items()
            assert any(wanted <= each.items() for each in labels), (policy["metadata"]["name"], wanted)


def test_mlflow_is_called_by_names_that_it_answers_to():
    [server] = [each for each in TEMPLATES if each["spec"]["containers"][0]["name"] == "mlflow"]
    [allowed] = [
        each["value"].split(",")
        for each in server["spec"]["containers"][0]["env"]
        if each["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"
    ]
    called = re.findall(
        r"http://(mlflow[\w.]*:\d+)", "".join(path.read_text() for path in KUBERAY.glob("*.yaml"))
    )
    assert called
    assert set(called) <= set(allowed)


def test_both_ways_to_start_mlflow_start_the_same():
    compose = yaml.safe_load((ROOT / "mlflow" / "compose.yaml").read_text("utf-8"))["services"]
    [server] = [each for each in TEMPLATES if each["spec"]["containers"][0]["name"] == "mlflow"]
    container = server["spec"]["containers"][0]
    assert [each.split("=")[0] for each in compose["mlflow"]["command"]] == [
        each.split("=")[0] for each in container["args"]
    ]
    assert compose["mlflow"]["command"][0] == container["args"][0]
    [database] = [each for each in TEMPLATES if each["spec"]["containers"][0]["name"] == "postgres"]
    assert compose["postgres"]["image"] == database["spec"]["containers"][0]["image"]
    dockerfile = (ROOT / "mlflow" / "Dockerfile").read_text()
    pins = dict(re.findall(r'"([\w-]+)(?:\[\w+\])?==([\d.]+)"', dockerfile))
    ours = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert {name: pins[name] for name in ("mlflow", "boto3")} == {
        name: ours[name] for name in ("mlflow", "boto3")
    }


def test_the_dashboard_asks_for_what_is_counted():
    """Ours by their names in the code, Ray's by those in its own dashboards."""
    import ray.dashboard.modules.metrics.dashboards as dashboards

    board = json.loads((ROOT / "cluster" / "monitoring" / "grafana.json").read_text("utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    asked = {name for each in expressions for name in re.findall(r"\b(?:ray|embedloom)_\w+", each)}
    code = (ROOT / "workflows" / "engine" / "board.py").read_text() + (
        ROOT / "components" / "serving" / "metrics.py"
    ).read_text()
    ours = set(re.findall(r'"(embedloom_\w+)"', code))
    rays = "".join(path.read_text() for path in Path(dashboards.__file__).parent.glob("*.py"))
    for name in asked:
        plain = re.sub(r"_(total|bucket)$", "", name.removeprefix("ray_"))
        assert {plain, name.removeprefix("ray_")} & ours or name in rays, name
    assert {f"ray_{name}" for name in ours if "_step_" in name} <= asked


def test_the_image_copies_what_there_is_and_the_builder_is_sent_it():
    """And no more: a folder that is named twice, in the image and for the builder."""
    copied = [
        word
        for line in re.findall(r"^COPY (.*)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((ROOT / word).exists() for word in copied)
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == sorted(sent)


def test_ray_is_one_version_everywhere():
    [version] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert document("raycluster")["spec"]["rayVersion"] == version
    assert document("rayservice")["spec"]["rayClusterConfig"]["rayVersion"] == version
