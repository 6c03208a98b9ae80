"""The composition is pinned, closed to the network, and its parts find each other."""

import re
from pathlib import Path
from typing import Any

import yaml
from tests.docker.dockerfile import ROOT, read

from penstock.config import FLAGS, ServerOptions

DOCKER = ROOT / "docker"
UNDER_KUBERNETES_S = 5


def load(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


SERVICES: dict[str, Any] = load("compose.yaml")["services"]
SERVERS = {name: service for name, service in SERVICES.items() if "build" in service}


def mounts(service: Any) -> dict[str, str]:
    """Target of every mount, and what is mounted there."""
    found = {}
    for volume in service["volumes"]:
        # A default such as ${MODELS:-../x} holds a colon that separates nothing.
        source, target, *_ = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        found[target] = source
    return found


def test_every_image_is_pinned() -> None:
    """The same composition starts the same programs tomorrow."""
    for service in SERVICES.values():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"])


def test_every_port_is_open_to_this_machine_only() -> None:
    """Neither the server nor the dashboards have a login here."""
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_no_service_can_write_to_its_root_or_gain_rights() -> None:
    """The images are made for it, so it is what they are run with."""
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_servers_writable_places_are_the_images_volumes() -> None:
    """Each volume that the image declares is a tmpfs here, owned by the image's user."""
    for service in SERVERS.values():
        image = read(ROOT / service["build"]["dockerfile"]).final
        places = {mount.partition(":")[0] for mount in service["tmpfs"]}
        user, group = image.last("USER").value.split(":")

        assert places == set(image.last("VOLUME").words())
        assert all(
            f"uid={user},gid={group}" in mount or "mode=1777" in mount for mount in service["tmpfs"]
        )


def test_the_servers_command_uses_flags_and_values_that_exist() -> None:
    """Each flag is the server's own, and each of its values one that it takes."""
    flags = {f"--{flag.name}": flag for flag in FLAGS}

    for service in SERVERS.values():
        command, *given = service["command"]
        assert command == "serve"
        for argument in given:
            name, _, value = argument.partition("=")
            choices = flags[name].info.choices
            assert not choices or value in choices


def test_a_server_gets_the_time_that_it_needs_to_stop() -> None:
    """Longer than draining and finishing together, so that nothing accepted is killed."""
    needed = ServerOptions().exit_timeout_secs + UNDER_KUBERNETES_S + 5

    for service in SERVERS.values():
        assert int(service["stop_grace_period"].removesuffix("s")) >= needed


def test_every_file_that_is_mounted_exists() -> None:
    """A missing file would be mounted as an empty directory."""
    for service in SERVICES.values():
        for source in mounts(service).values():
            if source.startswith("./"):
                assert (DOCKER / source).is_file(), source


def test_every_named_volume_is_declared() -> None:
    """What is kept between runs is told at the end of the file."""
    named = {
        source
        for service in SERVICES.values()
        for source in mounts(service).values()
        if not source.startswith(".")
    }

    assert named == set(load("compose.yaml")["volumes"])


def test_prometheus_scrapes_the_server_by_a_name_it_has() -> None:
    """The target is an alias of every server, and its port the default one of metrics."""
    config = load("prometheus.yml")
    [server] = [job for job in config["scrape_configs"] if job["job_name"] == "penstock"]
    [target] = server["static_configs"][0]["targets"]
    host, _, port = target.partition(":")

    for service in SERVERS.values():
        assert host in service["networks"]["default"]["aliases"]
    assert int(port) == ServerOptions().metrics_port


def test_prometheus_finds_its_configuration_and_its_rules() -> None:
    """The paths of its command and of rule_files are those of the mounts."""
    places = mounts(SERVICES["prometheus"])
    config = "/etc/prometheus/prometheus.yml"

    assert f"--config.file={config}" in SERVICES["prometheus"]["command"]
    assert places[config] == "./prometheus.yml"
    for rules in load("prometheus.yml")["rule_files"]:
        assert places[f"/etc/prometheus/{rules}"] == f"./{rules}"


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    """Source, provider and dashboard are mounted where Grafana looks for them."""
    places = mounts(SERVICES["grafana"])
    [source] = load("grafana-datasource.yml")["datasources"]
    [provider] = load("grafana-dashboards.yml")["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert source["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].split(':')[2]}"
    assert str(Path(home).parent) == provider["options"]["path"]
    assert places[home] == "./grafana.json"
    assert "./grafana-datasource.yml" in places.values()
    assert source["jsonData"]["timeInterval"] == load("prometheus.yml")["global"]["scrape_interval"]
