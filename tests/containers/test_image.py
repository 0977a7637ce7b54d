"""The image: who runs in it, what is in it and what is not, and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from services.runtime.settings import Settings
from tests.containers import engine
from tests.containers.engine import PLANTED, PYTHON_IMAGE, Builds, docker, inspect, logs
from tests.support.waiting import wait_until

OWN_MIB_MAX = 260
"""What the image adds to its base."""
CODE_MIB_MAX = 12
"""What a new build adds to what is there of the last one."""
COMPILERS = ("gcc", "cc", "c++", "clang", "tcc", "ld", "as", "make", "rustc", "go")
CONFINED: Mapping[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "mem_limit": "512m",
}
OFTEN = {"interval": 10**9, "retries": 2}
"""A health check every second; the rest is as the image has it."""
MIB = 1 << 20


def sh(image: str, script: str) -> str:
    """What a shell in the image says."""
    return docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script)


@pytest.fixture(scope="module")
def network(builds: Builds) -> Generator[Network]:
    """A network with a server in it, called nats."""
    engine.have(engine.NATS_IMAGE)
    with Network() as found:
        server = DockerContainer(engine.NATS_IMAGE).with_network(found).with_network_aliases("nats")
        with server.with_command("-js -sd /data").with_tmpfs_mount("/data"):
            yield found


def service(builds: Builds, network: Network, **more: Any) -> DockerContainer:
    """All services in one container, confined."""
    container = (
        DockerContainer(builds.old).with_kwargs(**CONFINED, **more).with_tmpfs_mount("/tmp").with_network(network)
    )
    return container.with_command("serve all").with_env("HOLDFAST_NATS_URL", "nats://nats:4222")


def until(holds: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    wait_until(holds, what, within_s=within_s, every_s=0.2)


def health(container: str) -> str:
    found: str = inspect(container)["State"]["Health"]["Status"]
    return found


def processes(container: str) -> list[str]:
    """The state and the name of every process in a container."""
    return docker("exec", container, "sh", "-c", "cat /proc/[0-9]*/status | grep -E '^(Name|State)'").splitlines()


def zombies(container: str) -> int:
    return sum("zombie" in line for line in processes(container))


# --- what it is ---


def test_it_runs_as_a_number_that_is_not_root(builds: Builds) -> None:
    assert inspect(builds.old)["Config"]["User"] == "10001:10001"
    assert sh(builds.old, "id -u; id -g; id -un").split() == ["10001", "10001", "holdfast"]


def test_its_user_owns_nothing_but_the_directory_of_its_work(builds: Builds) -> None:
    owned = sh(builds.old, "find / -xdev -user 10001 2>/dev/null || true").split()
    assert sorted(owned) == ["/var/lib/holdfast", "/var/lib/holdfast/work"]
    assert not sh(builds.old, "find /opt -xdev -perm -002 ! -type l")


def test_there_is_no_compiler(builds: Builds) -> None:
    found = sh(builds.old, f"for each in {' '.join(COMPILERS)}; do command -v $each; done; true")
    assert not found, found
    assert "pip" not in sh(builds.old, "ls /opt/holdfast/bin /opt/holdfast/lib/python3*/site-packages").split()


def test_no_secret_that_lay_about_came_along(builds: Builds, tmp_path: Path) -> None:
    history = docker("history", "--no-trunc", builds.old) + str(inspect(builds.old))
    assert PLANTED not in history
    assert not re.search(r"(KEY|TOKEN|PASSWORD|SECRET)=", history)
    saved = tmp_path / "image.tar"
    docker("save", "-o", str(saved), builds.old, within_s=200)
    grep = subprocess.run(["grep", "-c", "-a", PLANTED, saved], capture_output=True, text=True, check=False)
    assert grep.stdout.strip() == "0"
    assert sh(builds.old, "ls -A /opt/holdfast").split() == [
        "bin",
        "health.py",
        "include",
        "lib",
        "lib64",
        "pyvenv.cfg",
    ]


def test_it_says_what_it_is(builds: Builds) -> None:
    labels = inspect(builds.new)["Config"]["Labels"]
    said = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert said["title"] == "Holdfast"
    assert said["licenses"] == "Apache-2.0"
    assert said["version"] == builds.new_version
    assert said["revision"] == f"revision-of-{builds.new_version}"
    assert said["base.name"] == PYTHON_IMAGE
    assert docker("run", "--rm", builds.new, "--version") == f"holdfast {builds.new_version}"


def test_it_is_small_and_a_new_build_adds_little(builds: Builds) -> None:
    old, new, base = (inspect(tag) for tag in (builds.old, builds.new, PYTHON_IMAGE))
    assert old["Size"] - base["Size"] < OWN_MIB_MAX * MIB
    common = [layer for layer in new["RootFS"]["Layers"] if layer in old["RootFS"]["Layers"]]
    assert len(common) >= len(old["RootFS"]["Layers"]) - 2, "a new version is a layer of ours, and the probe's"
    listed = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", builds.new).splitlines()
    (code,) = (
        int(layer["Size"])
        for layer in map(json.loads, listed)
        if re.search(r"dir:\w+ in / |/program /", layer["CreatedBy"])
    )
    assert code < CODE_MIB_MAX * MIB


# --- how it runs ---


def test_a_confined_service_becomes_healthy_and_a_signal_drains_it(builds: Builds, network: Network) -> None:
    with service(builds, network) as container:
        name = container.get_container_id()
        until(lambda: health(name) == "healthy", "the service is healthy")
        docker("exec", name, "python", "-I", "-S", "/opt/holdfast/health.py", "/readyz")
        assert docker("exec", name, "cat", "/proc/1/comm") == "dumb-init"
        assert inspect(name)["State"]["OOMKilled"] is False
        docker("stop", "--time", str(int(Settings().drain_s) + 10), name)
        ended = inspect(name)["State"]
        assert ended["ExitCode"] == 0, logs(name)
        assert '"process.drain"' in logs(name)


def test_a_service_whose_server_is_gone_is_alive_and_one_that_hangs_is_not(builds: Builds, network: Network) -> None:
    with service(builds, network, healthcheck=OFTEN) as container:
        name = container.get_container_id()
        until(lambda: health(name) == "healthy", "the service is healthy")
        docker("exec", name, "sh", "-c", "kill -STOP $(cat /proc/1/task/1/children)")
        until(lambda: health(name) == "unhealthy", "the engine sees that the service hangs", within_s=90)
        docker("kill", name)


@pytest.mark.parametrize(("entry", "left"), [(None, 0), ("holdfast", 3)], ids=["as it is", "without process 1"])
def test_what_dead_processes_leave_behind_is_reaped(
    builds: Builds, network: Network, entry: str | None, left: int
) -> None:
    """The second case shows that the first one could fail."""
    more = {"entrypoint": entry} if entry else {}
    with service(builds, network, healthcheck=OFTEN, **more) as container:
        name = container.get_container_id()
        until(lambda: health(name) == "healthy", "the service is healthy")
        for _ in range(3):
            docker("exec", name, "sh", "-c", "sh -c 'sleep 0.2' & exit 0")
        until(lambda: "Name:\tsleep" not in processes(name) or zombies(name) == 3, "they have ended")
        until(lambda: zombies(name) == left, f"{left} processes that nobody has reaped")
