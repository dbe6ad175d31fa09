"""What is deployed: each file passes its validator, and every path, port, service and command it names exists."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.control.load import load
from gateway.demo import PORTS, parser

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
KUBERNETES = ROOT / "deploy/kubernetes/gateway.yaml"
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
UNIT = ROOT / "deploy/systemd/gateway.service"


def tool(name: str) -> str:
    """The path of a validator: beside the interpreter, or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def ports(service: str) -> set[int]:
    """The ports of a service that are published, inside and outside being the same."""
    published = set()
    for mapping in SERVICES[service].get("ports", []):
        host, outside, inside = mapping.split(":")
        assert (host, outside) == ("127.0.0.1", inside)
        published.add(int(inside))
    return published


def test_the_dockerfile_passes_hadolint() -> None:
    """No rule of hadolint is broken."""
    result = subprocess.run([tool("hadolint"), ROOT / "deploy/Dockerfile"], capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    """Every source of a COPY from the build context exists and passes .dockerignore."""
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
    ]
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    let_in = [line[1:] for line in ignore if line[0] == "!"]

    assert ignore[0] == "*"
    assert {"pyproject.toml", "uv.lock", "gateway"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in)
    assert set(re.findall(r"--extra (\w+)", DOCKERFILE)) <= set(extras())


def extras() -> list[str]:
    """The extras of the project."""
    import tomllib

    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_image_runs_without_root_and_without_a_shell() -> None:
    """A user of its own by number, a health check and an entry point in exec form."""
    assert re.search(r"^USER 10001$", DOCKERFILE, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["gateway", "healthcheck"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["gateway"\]$', DOCKERFILE, re.MULTILINE)


def test_every_path_that_is_mounted_exists() -> None:
    """A bind mount of what is not there would be made as an empty folder, by root."""
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] == "."]

    assert mounts
    for mount in mounts:
        source, target, mode = mount.split(":")
        assert (ROOT / source).is_dir()
        assert target.startswith("/")
        assert mode == "ro"


def test_everything_that_waits_waits_for_what_can_be_healthy() -> None:
    """`service_healthy` needs a health check: the image's own, or one in the file."""
    for service in SERVICES.values():
        waits = service.get("depends_on", {})
        for name in waits:
            assert name in SERVICES
            if isinstance(waits, dict):
                assert "healthcheck" in SERVICES[name] or SERVICES[name]["image"] == "gateway"


def test_the_services_of_the_stack_find_one_another() -> None:
    """The gateway's configuration is valid, and every host and port in it is a service of the stack."""
    config = load(ROOT / "deploy/gateway/gateway.yaml").config

    assert config.admin.listen is not None
    assert {config.server.listen[0].address.port, config.admin.listen.port} == ports("gateway")
    for name, upstream in config.upstreams.items():
        assert [endpoint.url.url for endpoint in upstream.endpoints] == [f"http://{name}:{PORTS[name]}"]
        assert ports(name) == {PORTS[name]}
        assert str(PORTS[name]) in SERVICES[name]["healthcheck"]["test"][-1]
    assert "redis://redis:6379" in (ROOT / "deploy/gateway/gateway.yaml").read_text()
    assert "redis" in SERVICES


@pytest.mark.parametrize("name", ["users", "orders", "clients"])
def test_the_demo_takes_the_commands_of_the_stack(name: str) -> None:
    """Every command line of the demo in the file is one that it understands."""
    command, *arguments = SERVICES[name]["command"]
    options = parser().parse_args(arguments)

    assert command == "demo"
    assert options.load == ("http://gateway:8080" if name == "clients" else None)


def test_every_container_of_ours_runs_with_as_little_as_it_needs() -> None:
    """Read-only root, no capabilities, no new privileges; published on loopback only."""
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service.get("read_only") is True or name == "grafana"
        ports(name)


def test_prometheus_of_the_stack_reaches_what_it_scrapes() -> None:
    """Every target is a service of the stack on a port it listens on, and the rule files are in the mounted folder."""
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (discovery,) = next(job for job in config["scrape_configs"] if job["job_name"] == "gateway")["dns_sd_configs"]
    admin = load(ROOT / "deploy/gateway/gateway.yaml").config.admin.listen

    assert discovery["names"] == ["gateway"]
    assert admin is not None
    assert discovery["port"] == admin.port
    assert "./deploy/prometheus:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]
    for pattern in config["rule_files"]:
        assert list((ROOT / "deploy/prometheus").glob(pattern))


def test_grafana_of_the_stack_finds_its_source_and_its_dashboard() -> None:
    """The provisioned data source is the stack's Prometheus, and the folder of dashboards is the one that is mounted."""
    folder = ROOT / "deploy/grafana"
    (source,) = yaml.safe_load((folder / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "provisioning/dashboards/gateway.yaml").read_text())["providers"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]

    assert source["url"] == "http://prometheus:9090"
    assert ports("prometheus") == {9090}
    assert source["jsonData"]["timeInterval"] == scrape
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
    assert str(home.parent) == provider["options"]["path"]
    assert (folder / "dashboards" / home.name).is_file()


def test_the_manifests_pass_the_schema_of_kubernetes() -> None:
    """No unknown field, in the version in which `preStop.sleep` is stable."""
    command = [tool("kubernetes-validate"), "--strict", "-k", "1.34", str(KUBERNETES)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_manifests_agree_with_one_another(tmp_path: Path) -> None:
    """The configuration in the map is valid, probes and ports name what it listens on, the grace period covers the drain."""
    documents = {document["kind"]: document for document in yaml.safe_load_all(KUBERNETES.read_text())}
    file = tmp_path / "gateway.yaml"
    file.write_text(documents["ConfigMap"]["data"]["gateway.yaml"])
    config = load(file).config
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    timeouts = config.server.timeouts
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert config.admin.listen is not None
    assert named == {"http": config.server.listen[0].address.port, "admin": config.admin.listen.port}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(named["admin"])
    for probe, path in (("startupProbe", "/readyz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
    assert pod["spec"]["terminationGracePeriodSeconds"] > sleep + timeouts.drain + timeouts.drain_delay
    labels = pod["metadata"]["labels"]
    selectors = [documents["Service"]["spec"]["selector"]]
    selectors += [documents[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors.append(documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"])
    assert selectors == [labels] * 4


def test_the_unit_passes_systemd(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say; its exit code is 0 even for unknown keys."""
    unit = tmp_path / "gateway.service"
    unit.write_text(UNIT.read_text().replace("/opt/gateway/bin/gateway", "/bin/true"))
    result = subprocess.run([tool("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False)
    if "Failed to" in result.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {result.stderr.splitlines()[0]}")

    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_unit_gives_the_drain_its_time() -> None:
    """`TimeoutStopSec` is longer than the drain by default."""
    stop = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    timeouts = load(ROOT / "config/minimal.yaml").config.server.timeouts

    assert stop is not None
    assert int(stop[1]) > timeouts.drain + timeouts.drain_delay
