"""What holds of every pod that the chart makes, whatever the values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.human_contact.web.server import STOP_S
from services.runtime.settings import Settings
from services.tool_executor.toolsets.workdir import Unusable, WorkDirs
from tests.support.chart import (
    CASES,
    KUBE_NEWEST,
    KUBE_VERSIONS,
    Object,
    Rendered,
    by_service,
    component,
    container,
    environment,
    of_kind,
    pods,
)

every_case = pytest.mark.parametrize("case", CASES)

SPANS_S = 3.0
"""How long a process may wait until its spans are sent."""


@every_case
def test_every_pod_is_restricted(rendered: Rendered, case: str) -> None:
    """The "restricted" pod security standard, and more than it asks for."""
    for name, pod in pods(rendered(case, KUBE_NEWEST)):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert "initContainers" not in spec, "these checks would have to look at them too"
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }, name
            assert not any("hostPort" in port for port in one.get("ports", ())), name
        kinds = {kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}, name


@every_case
def test_every_container_says_what_it_needs_and_which_image_it_is(rendered: Rendered, case: str) -> None:
    for name, pod in pods(rendered(case, KUBE_NEWEST)):
        for one in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys(), name
            assert "memory" in one["resources"]["limits"], name
            assert re.search(r"@sha256:[0-9a-f]{64}$|:(?!latest$)[\w][\w.-]*$", one["image"]), one["image"]


@every_case
def test_kubernetes_adds_no_variables_that_the_services_would_refuse(rendered: Rendered, case: str) -> None:
    """A Service `holdfast-planner` becomes the variable HOLDFAST_PLANNER_PORT in all pods of its namespace."""
    for name, pod in pods(rendered(case, KUBE_NEWEST)):
        assert pod["spec"]["enableServiceLinks"] is False, name


@every_case
def test_every_deployment_is_probed_where_its_process_answers(rendered: Rendered, case: str) -> None:
    for name, found in by_service(rendered(case, KUBE_NEWEST), "Deployment").items():
        one = container(found)
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        settings = Settings.from_env(environment(found))
        assert ports["http"] == settings.http_port, name
        assert settings.http_host == "0.0.0.0", name
        probed = {kind: one[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert probed == {
            "startupProbe": {"path": "/healthz", "port": "http"},
            "livenessProbe": {"path": "/healthz", "port": "http"},
            "readinessProbe": {"path": "/readyz", "port": "http"},
        }, name


@every_case
@pytest.mark.parametrize("kube", KUBE_VERSIONS)
def test_a_pod_has_the_time_to_drain(rendered: Rendered, case: str, kube: str) -> None:
    for name, found in by_service(rendered(case, kube), "Deployment").items():
        grace_s = found["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        drain_s = Settings.from_env(environment(found)).drain_s
        assert grace_s >= waited_s(container(found)) + drain_s + STOP_S + SPANS_S, name


def waited_s(one: Object) -> int:
    """How long a container is left alone before SIGTERM."""
    match one.get("lifecycle"):
        case None:
            return 0
        case {"preStop": {"sleep": {"seconds": int(seconds)}}}:
            return seconds
        case {"preStop": {"exec": {"command": ["python", "-c", program]}}}:
            found = re.fullmatch(r"import time; time\.sleep\((\d+)\)", program)
            assert found, program
            return int(found[1])
        case other:
            raise AssertionError(other)


def test_the_wait_before_sigterm_needs_no_program_where_kubernetes_can_wait(rendered: Rendered) -> None:
    for kube in KUBE_VERSIONS:
        for found in by_service(rendered("defaults", kube), "Deployment").values():
            (how,) = container(found)["lifecycle"]["preStop"]
            assert how == ("exec" if kube == "1.27" else "sleep")
            assert waited_s(container(found)) == 5
    for found in by_service(rendered("no wait before SIGTERM", KUBE_NEWEST), "Deployment").values():
        assert "lifecycle" not in container(found)


def test_the_drain_is_the_programs_own_where_nothing_else_is_better(rendered: Rendered) -> None:
    """Longer where work that is cut off costs something."""
    drains = {
        name: Settings.from_env(environment(found)).drain_s
        for name, found in by_service(rendered("defaults", KUBE_NEWEST), "Deployment").items()
    }

    assert drains == {
        "planner": Settings().drain_s,
        "llm-gateway": 120,
        "tool-executor": 60,
        "human-contact": Settings().drain_s,
        "notifier": Settings().drain_s,
    }


@every_case
def test_every_service_spreads_and_may_be_disturbed_little(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    budgets = by_service(objects, "PodDisruptionBudget")
    for name, found in by_service(objects, "Deployment").items():
        selector = found["spec"]["selector"]
        assert selector["matchLabels"].items() <= found["spec"]["template"]["metadata"]["labels"].items()
        spread = found["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        assert all(one["labelSelector"] == selector for one in spread)
        assert budgets[name]["spec"]["selector"] == selector
        assert budgets[name]["spec"]["maxUnavailable"] in (1, "50%")
    assert budgets.keys() == by_service(objects, "Deployment").keys()


@every_case
def test_every_service_has_an_account_without_a_token(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    accounts = of_kind(objects, "ServiceAccount")
    used = [
        found["spec"]["template"]["spec"]["serviceAccountName"] for found in of_kind(objects, "Deployment").values()
    ]

    assert sorted(used) == sorted(accounts)
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


@every_case
def test_every_mount_has_its_volume_and_every_volume_its_mount(rendered: Rendered, case: str) -> None:
    for name, pod in pods(rendered(case, KUBE_NEWEST)):
        spec = pod["spec"]
        mounts = [mount for one in spec["containers"] for mount in one.get("volumeMounts", ())]
        assert sorted(mount["name"] for mount in mounts) == sorted(volume["name"] for volume in spec.get("volumes", ()))
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts), name


@every_case
def test_what_a_service_writes_to_can_be_written(rendered: Rendered, case: str) -> None:
    """The root file system is read-only: temporary files, homes and working directories are on volumes."""
    for name, found in by_service(rendered(case, KUBE_NEWEST), "Deployment").items():
        writable = {mount["mountPath"] for mount in container(found)["volumeMounts"] if not mount.get("readOnly")}
        env = environment(found)
        assert {env["TMPDIR"], env["HOME"]} <= writable, name
        if name == "tool-executor":
            folder, _, last = env["HOLDFAST_WORK_DIR"].rpartition("/")
            assert folder in writable
            assert last, "a volume's own root belongs to root, and the executor refuses that"


def test_a_volume_itself_is_no_work_directory_and_a_folder_in_it_is(tmp_path: Path) -> None:
    """Why HOLDFAST_WORK_DIR is not the mount: Kubernetes opens a volume to its group, and the executor refuses that."""
    tmp_path.chmod(0o2775)

    with pytest.raises(Unusable):
        WorkDirs(str(tmp_path)).open("default", "task", 1)
    assert WorkDirs(str(tmp_path / "work")).open("default", "task", 1) == (tmp_path / "work/default/task", True)


@every_case
def test_the_test_pod_asks_every_service(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    (pod,) = of_kind(objects, "Pod").values()
    asked = {url.split("/")[2].split(":")[0] for url in container(pod)["args"][1:]}

    assert component(pod) == "test"
    assert asked == set(of_kind(objects, "Service"))
