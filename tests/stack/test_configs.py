"""The shipped configurations: valid to their programs, true to each other, and of what exists."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import sources
from otel_storage.cli import demo
from tests.programs import program
from tests.stack.stack import SHIPPED, replaced

ROOT = SHIPPED.parent
COLLECTOR: dict[str, Any] = yaml.safe_load((SHIPPED / "config.yaml").read_text())
MANIFEST: dict[str, Any] = yaml.safe_load((SHIPPED / "manifest.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((SHIPPED / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TRACES_TO = ["[otlp_http/jaeger]", "[otlp_http/tempo]", "[otlp_http/jaeger, otlp_http/tempo]"]

MODULES = {
    "health_check": "extension/healthcheckextension",
    "file_storage": "extension/storage/filestorage",
    "otlp": "receiver/otlpreceiver",
    "memory_limiter": "processor/memorylimiterprocessor",
    "redaction": "processor/redactionprocessor",
    "transform": "processor/transformprocessor",
    "otlp_http": "exporter/otlphttpexporter",
    "prometheus_remote_write": "exporter/prometheusremotewriteexporter",
}
"""The end of the Go module of each component, by its name in a configuration."""


def run(*command: str, **environment: str) -> str:
    """What the command wrote; it exited 0."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def variables(text: str) -> dict[str, str]:
    """The environment variables that a configuration takes, with their defaults."""
    return dict(re.findall(r"\$\{(?:env:)?([A-Z][A-Z0-9_]*)(?::-((?:[^{}]|\$\{[^}]*\})*))?\}", uncommented(text)))


def uncommented(text: str) -> str:
    """The text without its lines of comment."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def documented(text: str) -> dict[str, str]:
    """The variables that the comment at the start of a file explains, with the word or list after each."""
    head = text[: re.search(r"^[a-z]", text, re.MULTILINE).start()]  # type: ignore[union-attr]  # there is one
    return dict(re.findall(r"^#   ([A-Z][A-Z_]+) *(\[.*?\]|\S*)(?:  |$)", head, re.MULTILINE))


# --- the collector ---


@pytest.mark.stack
@pytest.mark.parametrize("traces_to", [None, *TRACES_TO])
def test_collector_takes_its_configuration(traces_to: str | None, tmp_path: Path) -> None:
    """The collector validates the shipped file, as it is and for each choice of where traces go."""
    environment = {} if traces_to is None else {"COLLECTOR_TRACES_TO": traces_to}

    run(program("COLLECTOR"), "validate", "--config", str(SHIPPED / "config.yaml"), **environment)


@pytest.mark.stack
def test_collector_refuses_what_is_wrong() -> None:
    """Validation sees a choice of an exporter that there is not: it does look at what the variable says."""
    with pytest.raises(AssertionError, match="otlp_http/nowhere"):
        run(
            program("COLLECTOR"),
            *("validate", "--config", str(SHIPPED / "config.yaml")),
            COLLECTOR_TRACES_TO="[otlp_http/nowhere]",
        )


def components(config: dict[str, Any]) -> Iterator[str]:
    """The names of the components that a configuration makes, without what tells two of a kind apart."""
    for kind in ("extensions", "receivers", "processors", "exporters", "connectors"):
        for name in config.get(kind, {}):
            yield name.partition("/")[0]


def test_manifest_has_what_the_configuration_uses_and_nothing_else() -> None:
    """A collector built by the manifest has each component of the configuration, and none that it does not use."""
    modules = [
        entry["gomod"].split() for kind in MANIFEST if kind not in ("dist", "providers") for entry in MANIFEST[kind]
    ]

    assert {module.partition("/collector/")[2] or module.split("contrib/")[1] for module, _ in modules} == {
        MODULES[name] for name in components(COLLECTOR)
    }
    assert len(modules) == len({module for module, _ in modules})
    assert {version for _, version in modules} == {f"v{MANIFEST['dist']['version']}"}


@pytest.mark.stack
def test_collector_that_was_built_is_of_the_manifest() -> None:
    """The program that the tests run was built by the manifest that is shipped."""
    told = yaml.safe_load(run(program("COLLECTOR"), "components"))

    assert told["buildinfo"]["version"] == MANIFEST["dist"]["version"]
    built = {each["name"] for kind in ("extensions", "receivers", "processors", "exporters") for each in told[kind]}
    assert built == set(components(COLLECTOR))


def test_every_component_is_in_use() -> None:
    """What the configuration defines, a pipeline or the service uses; a pipeline limits memory before anything else."""
    pipelines = COLLECTOR["service"]["pipelines"].values()
    used = {name for each in pipelines for kind in ("receivers", "processors") for name in each[kind]}
    assert used | set(COLLECTOR["service"]["extensions"]) == {
        name for kind in ("receivers", "processors", "extensions") for name in COLLECTOR[kind]
    }
    for pipeline in pipelines:
        assert pipeline["processors"][0] == "memory_limiter"
        assert not [name for name in pipeline["processors"] if name.startswith("batch")]


@pytest.mark.parametrize("exporter", ["otlp_http/jaeger", "otlp_http/tempo"])
def test_traces_are_never_given_up(exporter: str) -> None:
    """Each exporter of traces has a queue on disk that is synced, and tries for ever."""
    config = COLLECTOR["exporters"][exporter]

    assert config["retry_on_failure"]["max_elapsed_time"] == 0
    assert config["sending_queue"]["storage"] == "file_storage/queue"
    assert config["sending_queue"]["block_on_overflow"] is False
    assert COLLECTOR["extensions"]["file_storage/queue"]["fsync"] is True


# --- names and addresses ---

EXPLAINED = [SHIPPED / "config.yaml", SHIPPED / "jaeger" / "config.yaml", SHIPPED / "tempo" / "tempo.yaml"]


@pytest.mark.parametrize("path", EXPLAINED, ids=lambda path: path.parent.name)
def test_variables_are_explained(path: Path) -> None:
    """The head of a file tells every variable that it takes, and its true default."""
    text = path.read_text()

    assert documented(text) == variables(text)


def test_compose_variables_are_explained() -> None:
    """So does the compose file's."""
    text = (SHIPPED / "compose.yaml").read_text()

    assert documented(text) == variables(text.replace("$${", "{"))


EVERYWHERE = "0.0.0.0"  # noqa: S104 - it is looked for
ADDRESS = re.compile(r"(?<![\w.])(?:0\.0\.0\.0|127\.0\.0\.1|localhost):\d+|https?://[^\s\"'}]+")


@pytest.mark.parametrize("path", EXPLAINED, ids=lambda path: path.parent.name)
def test_addresses_come_from_the_environment(path: Path) -> None:
    """No address is in a file but as a variable's default, which is on the loopback."""
    text = uncommented(path.read_text())

    rest = re.sub(r"\$\{[^}]*\}", "", text)
    assert ADDRESS.findall(rest) == []
    assert EVERYWHERE not in text


@pytest.mark.stack
def test_prometheus_takes_its_configuration() -> None:
    """Prometheus finds nothing wrong with its file, nor with the rules that it names."""
    told = run(program("PROMTOOL"), "check", "config", str(SHIPPED / "prometheus" / "prometheus.yml"))

    assert "rules found" in told


@pytest.mark.stack
def test_rules_of_the_collector_fire_and_are_silent() -> None:
    """Each rule on what the collector tells of itself fires when it is to, and not otherwise."""
    run(program("PROMTOOL"), "test", "rules", str(SHIPPED / "prometheus" / "tests" / "collector.yml"))


@pytest.mark.stack
def test_alertmanager_takes_its_configuration() -> None:
    """Alertmanager finds nothing wrong with its file."""
    run(program("AMTOOL"), "check-config", str(SHIPPED / "alertmanager" / "alertmanager.yml"))


# --- compose.yaml ---


def test_images_are_pinned() -> None:
    """Every image is of a full version."""
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[a-z0-9/-]+:v?\d+\.\d+(?:\.\d+)?", service["image"]), name


def test_versions_are_those_of_the_tests() -> None:
    """The collector and Jaeger in containers are the versions that the tests run: the manifest's and .ci/programs'."""
    assert SERVICES["collector"]["image"].endswith(f":{MANIFEST['dist']['version']}")
    module = re.search(r"^jaeger_version=v1\.(\d+)\.(\d+)$", (ROOT / ".ci" / "programs").read_text(), re.MULTILINE)
    assert module is not None
    # Jaeger 2.N is 1.(N + 63) in the numbering of its module.
    assert SERVICES["jaeger"]["image"].endswith(f":2.{int(module[1]) - 63}.{module[2]}")
    # And what the demo names where there is no compose file.
    assert demo.CONTAINER_COMMAND[-1] == SERVICES["jaeger"]["image"]


def test_published_on_the_loopback_only() -> None:
    """No port of a container can be reached from another machine."""
    for name, service in SERVICES.items():
        assert service["ports"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_mounted_files_exist() -> None:
    """What is mounted from this folder is there, and read-only; every volume is declared, and every one is used."""
    volumes = set()
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source, _, rest = mount.partition(":")
            if source.startswith("."):
                assert (SHIPPED / source).exists(), mount
                assert rest.endswith(":ro"), mount
            else:
                volumes.add(source)
    assert volumes == set(COMPOSE["volumes"])


CONFIGURED = {
    "collector": SHIPPED / "config.yaml",
    "jaeger": SHIPPED / "jaeger" / "config.yaml",
    "tempo": SHIPPED / "tempo" / "tempo.yaml",
    "prometheus": SHIPPED / "prometheus" / "prometheus.yml",
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_variables_that_are_set_exist(name: str) -> None:
    """A container is given no variable that its configuration does not take."""
    assert set(SERVICES[name]["environment"]) <= set(variables(CONFIGURED[name].read_text()))


def ports(name: str) -> set[str]:
    """The ports that a service listens on within the network, by its configuration and what it is given."""
    told = {**variables(CONFIGURED[name].read_text()), **SERVICES[name]["environment"]}
    return {
        value.rpartition(":")[2]
        for variable, value in told.items()
        if (variable.startswith(f"{name.upper()}_") and variable.endswith(("_ADDRESS", "_PORT")))
    }


def test_services_find_each_other() -> None:
    """Each address of one container in another's settings is that of a service, at a port on which it listens."""
    known = {"collector": ports("collector"), "jaeger": ports("jaeger"), "tempo": ports("tempo")}
    known |= {"prometheus": {"9090"}, "alertmanager": {"9093"}}
    texts = [
        value for service in SERVICES.values() for value in service.get("environment", {}).values() if "://" in value
    ]
    texts.append(uncommented((SHIPPED / "prometheus" / "prometheus.yml").read_text()))
    found = {
        (host, port)
        for text in texts
        for host, port in re.findall(r"(?<![\w.-])([a-z][a-z.-]+):(\d{4,5})", text)
        if host not in ("localhost", "host.docker.internal")
    }
    assert {("jaeger", "14318"), ("tempo", "24318"), ("prometheus", "9090"), ("collector", "8888")} <= found
    for host, port in found:
        assert port in known[host], (host, port)


def test_ports_that_are_published_are_listened_on_by_all() -> None:
    """A published port is one of the container's, which it listens on for others than itself."""
    for name in ("collector", "jaeger", "tempo"):
        environment = SERVICES[name]["environment"]
        defaults = variables(CONFIGURED[name].read_text())
        for published in SERVICES[name]["ports"]:
            port = published.rpartition(":")[2]
            by_address = [v for v, value in {**defaults, **environment}.items() if str(value).endswith(f":{port}")]
            by_port = [v.replace("_PORT", "_HOST") for v, value in defaults.items() if value == port]
            [variable] = by_address + by_port
            assert environment[variable].startswith(EVERYWHERE), (name, port)


def test_health_is_checked_where_it_can_be() -> None:
    """Every container has a health check, but the two whose images have nothing to run one with."""
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"collector", "tempo"}


def test_alerts_are_told_where_the_environment_says(tmp_path: Path) -> None:
    """Alertmanager's container starts with the shipped file, in which the address is that of the environment."""
    service = SERVICES["alertmanager"]
    assert service["entrypoint"] == ["/bin/sh", "-c"]
    [script] = service["command"]
    # Run the script as Compose would, on this machine and without the program's start.
    edit = script.partition("&& exec ")[0].replace("$$", "$")
    edit = replaced(edit, {"/etc/alertmanager/": f"{SHIPPED}/alertmanager/", "> /alertmanager/": f"> {tmp_path}/"})
    run("/bin/sh", "-c", edit, ALERT_WEBHOOK_URL="http://alerts.example.com/?a=b&c=d", PATH=os.environ["PATH"])

    [written] = tmp_path.iterdir()
    assert f"--config.file=/alertmanager/{written.name}" in script
    [receiver] = yaml.safe_load(written.read_text())["receivers"]
    assert receiver["webhook_configs"][0]["url"] == "http://alerts.example.com/?a=b&c=d"


def test_grafana_is_provisioned() -> None:
    """Grafana finds its provisioning and its dashboards where they are mounted, and the addresses that they name."""
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    environment = SERVICES["grafana"]["environment"]

    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounts["../grafana/dashboards"] == sources.DASHBOARDS_PATH
    defaults = variables("\n".join(v for name, v in environment.items() if not name.startswith("GF_")))
    assert defaults == sources.ENVIRONMENT


def test_nobody_is_told_twice() -> None:
    """Alertmanager groups by the labels that the rules set, and tells of Grafana's copy of an alert only by itself."""
    config = yaml.safe_load((SHIPPED / "alertmanager" / "alertmanager.yml").read_text())
    rules = yaml.safe_load((SHIPPED / "prometheus" / "rules.yml").read_text())
    labels = {label for group in rules["groups"] for rule in group["rules"] for label in rule["labels"]}

    assert set(config["route"]["group_by"]) == {"alertname", "job", "pipeline"} <= {"alertname", "job"} | labels
    [inhibition] = config["inhibit_rules"]
    assert set(inhibition["equal"]) - {"alertname", "job"} <= labels
