"""The Kubernetes files, by their schemas and against what the harness is."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from harness.config.experiment import parse_experiment
from harness.price.prices import instance_price
from tests.deploy.deploy_tools import DEPLOY, MANIFESTS, documents, kind


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_valid_by_kubernetes_own_schema(path):
    """Strictly: an unknown or misspelt field is an error. Against Kubernetes 1.33 and 1.37, as far as they are at hand."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    versions = [version for version in ("1.33", "1.37") if version in _versions(validate)]
    assert versions
    for document in documents(path):
        for version in versions:
            validate.validate(document, version, strict=True)


def _versions(validate) -> set[str]:
    folder = Path(validate.__file__).parent / "kubernetes-json-schema"
    return {found[1] for path in folder.iterdir() if (found := re.match(r"v(\d+\.\d+)\.", path.name))}


def test_the_schema_would_see_a_wrong_field():
    """The check is one that can fail: a probe with a misspelt field is refused."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    deployment = kind("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]["failureTreshold"] = 3
    with pytest.raises(validate.ValidationError):
        validate.validate(deployment, "1.37", strict=True)


def test_the_posts_errors_are_corrected_in_the_deployment():
    """Model as an argument, three probes, as many GPUs as the parallel size, cache and shared memory, a token from a Secret."""
    deployment = kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert any(word.startswith("--model=") for word in container["args"])
    assert "MODEL_NAME" not in {variable["name"] for variable in container["env"]}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    (parallel,) = [
        int(word.partition("=")[2]) for word in container["args"] if word.startswith("--tensor-parallel-size")
    ]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
        == parallel
    )
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]} == {
        "/cache": "cache",
        "/dev/shm": "shm",
    }
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in volumes["cache"]
    (token,) = [variable for variable in container["env"] if variable["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"]["name"] == kind("Secret")["metadata"]["name"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["image"].endswith(":latest")


def test_the_service_selects_the_pods_and_the_claims_exist():
    """Selector, labels, ports, claims and config maps fit each other over both files."""
    deployment = kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = kind("Service")
    assert service["spec"]["selector"].items() <= labels.items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in container["ports"]}
    names = {(d["kind"], d["metadata"]["name"]) for path in MANIFESTS for d in documents(path)}
    job = kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for volume in [*deployment["spec"]["template"]["spec"]["volumes"], *job["volumes"]]:
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in names
        if config := volume.get("configMap"):
            assert ("ConfigMap", config["name"]) in names


def test_the_experiment_in_the_config_map_is_one_that_the_harness_reads():
    """The CronJob's nightly.yaml validates, and adopts the Service by its name, its port and its model."""
    spec = parse_experiment(yaml.safe_load(kind("ConfigMap")["data"]["nightly.yaml"]), "nightly.yaml")
    (target,) = spec.targets
    service = kind("Service")
    assert target.kind == "adopt"
    assert target.url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/v1"
    args = kind("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--model={target.model}" in args


def test_the_campaign_has_a_price_and_a_promise():
    """Dollars and goodput come out of it: the price is a row for as many GPUs as the server takes, the promise has limits."""
    spec = parse_experiment(yaml.safe_load(kind("ConfigMap")["data"]["nightly.yaml"]), "nightly.yaml")
    (target,) = spec.targets
    pod = kind("Deployment")["spec"]["template"]["spec"]
    priced = instance_price(target.hardware, datetime(2026, 11, 26, tzinfo=UTC))
    assert priced.gpu_count == pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert spec.slo.limits
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def patched(overlay: dict, name: str) -> dict:
    """A manifest with the overlay's JSON patch applied (RFC 6902: add, replace, remove of members)."""
    document = copy.deepcopy(kind(name))
    (patch,) = [one["patch"] for one in overlay["patches"] if one["target"]["kind"] == name]
    assert {one["target"]["name"] for one in overlay["patches"] if one["target"]["kind"] == name} == {
        document["metadata"]["name"]
    }
    for step in yaml.safe_load(patch):
        *path, last = [word.replace("~1", "/").replace("~0", "~") for word in step["path"].split("/")[1:]]
        place = document
        for word in path:
            place = place[int(word) if isinstance(place, list) else word]
        assert (last in place) == (step["op"] != "add"), step
        if step["op"] == "remove":
            del place[last]
        else:
            place[last] = step["value"]
    return document


def test_a_mig_slice_takes_the_place_of_whole_gpus():
    """The overlay's resources exist, its patches fit, the result is valid, asks for one slice and no GPU, and the campaign is for its model."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    folder = DEPLOY / "kubernetes" / "mig"
    overlay = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert all((folder / resource).resolve() in MANIFESTS for resource in overlay["resources"])
    deployment, config = patched(overlay, "Deployment"), patched(overlay, "ConfigMap")
    validate.validate(deployment, "1.37", strict=True)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for amounts in container["resources"].values():
        assert {key: value for key, value in amounts.items() if key.startswith("nvidia.com/")} == {
            "nvidia.com/mig-1g.10gb": 1
        }
    spec = parse_experiment(yaml.safe_load(config["data"]["nightly.yaml"]), "nightly.yaml")
    assert f"--model={spec.targets[0].model}" in container["args"]
    assert spec.slo.limits
