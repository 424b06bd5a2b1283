"""The monitor's unit and manifests: read-only, unprivileged, with a config that it reads, and words that its command has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness.base import clock
from harness.config.monitor import MonitorSpec, load_monitor
from harness.monitor.paid import hardware_on
from tests.deploy.deploy_tools import DEPLOY, ROOT, documents, said, settings, tool

UNIT = DEPLOY / "systemd" / "vllm-harness-monitor.service"
FOLDER = DEPLOY / "kubernetes" / "monitor"
MANIFEST = FOLDER / "monitor.yaml"


def one(kind: str) -> dict:
    (found,) = [
        document for path in sorted(FOLDER.glob("*.yaml")) for document in documents(path) if document["kind"] == kind
    ]
    return found


def pod() -> dict:
    return one("Deployment")["spec"]["template"]["spec"]


def test_the_manifest_is_valid_by_kubernetes_own_schema():
    """Strictly, every document of it, against the oldest and newest version at hand."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    assert len(documents(MANIFEST)) == 7
    for document in documents(MANIFEST):
        for version in ("1.33", "1.37"):
            validate.validate(document, version, strict=True)


def test_it_may_list_pods_and_nothing_else():
    """One rule, one verb, its own namespace, bound to the account that only its own pod uses."""
    assert one("Role")["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    binding = one("RoleBinding")
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "Role",
        "name": one("Role")["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": pod()["serviceAccountName"]}]
    assert one("ServiceAccount")["automountServiceAccountToken"] is False
    assert "ClusterRole" not in MANIFEST.read_text()


def test_it_runs_without_privilege():
    """No root, no new privilege, no capability, nothing writable but its store and /tmp; no GPU, no host."""
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {
        "/store",
        "/tmp",
    }
    assert not any(word in MANIFEST.read_text() for word in ("nvidia.com/gpu", "hostPath", "hostNetwork", "privileged"))


def test_service_and_servicemonitor_find_the_pod():
    """Labels, port names and claims fit each other; the Service's name is the job that the alert rules ask for."""
    service, watched, labels = (
        one("Service"),
        one("ServiceMonitor"),
        one("Deployment")["spec"]["template"]["metadata"]["labels"],
    )
    (container,) = pod()["containers"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}
    assert watched["apiVersion"] == "monitoring.coreos.com/v1"
    assert watched["spec"].keys() == {"selector", "endpoints"}
    assert watched["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {end["port"] for end in watched["spec"]["endpoints"]} == {port["name"] for port in service["spec"]["ports"]}
    assert f'job="{service["metadata"]["name"]}"' in (ROOT / "configs/monitor/rules/alerts.yaml").read_text()
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert volumes["store"]["persistentVolumeClaim"]["claimName"] == one("PersistentVolumeClaim")["metadata"]["name"]
    assert volumes["config"]["configMap"]["name"] == one("ConfigMap")["metadata"]["name"]


def test_the_configs_are_such_that_the_monitor_reads_them(tmp_path):
    """The ConfigMap's and the example: valid, with a price that the table has, the store on the claim, servers by the pods' own label."""
    path = tmp_path / "monitor.yaml"
    path.write_text(one("ConfigMap")["data"]["monitor.yaml"])
    inside = load_monitor(path)
    (container,) = pod()["containers"]
    assert inside.store in {mount["mountPath"] for mount in container["volumeMounts"]}
    key, value = inside.pools[0].kubernetes.selector.split("=")
    served = [
        document
        for path in (DEPLOY / "kubernetes").glob("*.yaml")
        for document in documents(path)
        if document["kind"] == "Deployment"
    ]
    assert served[0]["spec"]["template"]["metadata"]["labels"][key] == value
    example = load_monitor(ROOT / "configs" / "monitor" / "example.yaml")
    for spec in (inside, example):
        assert isinstance(spec, MonitorSpec)
        for pool in spec.pools:
            assert float(hardware_on(pool, clock.utc_now()).usd_per_hour) > 0


def test_the_words_are_those_of_harness_monitor():
    """Unit and manifest call `harness monitor CONFIG --listen HOST:PORT`, with options that it has and a port that is scraped."""
    from harness.cli.monitor import watch_command

    known = {name for parameter in watch_command.params for name in parameter.opts}
    (line,) = settings(UNIT, "ExecStart")
    calls = [shlex.split(line)[1:], pod()["containers"][0]["args"]]
    for words in calls:
        assert words[0] == "monitor"
        assert {word for word in words if word.startswith("--")} <= known
    assert calls[0][-1] == "127.0.0.1:9848"
    assert calls[1][-1] == f"0.0.0.0:{pod()['containers'][0]['ports'][0]['containerPort']}"


def test_the_unit_is_exposed_to_little():
    """systemd's own score of what it could do, 10 is everything: a service of no privilege is below 2."""
    program = tool("systemd-analyze", "apt install systemd")
    _code, text = said(program, "security", "--offline=true", "--no-pager", str(UNIT))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    assert found, text
    assert float(found[1]) < 2, text
    assert settings(UNIT, "DynamicUser") == ["yes"]


def test_a_config_that_is_wrong_is_not_tried_again():
    """Exit code 2 ends the unit; a network that is away does not."""
    assert settings(UNIT, "RestartPreventExitStatus") == ["2"]
    assert settings(UNIT, "Restart") == ["on-failure"]


def test_the_readme_names_the_files():
    """What is deployed is in the table."""
    text = (DEPLOY / "README.md").read_text()
    for name in ("systemd/vllm-harness-monitor.service", "kubernetes/monitor/"):
        assert f"`{name}`" in text
        assert Path(DEPLOY / name).exists()
