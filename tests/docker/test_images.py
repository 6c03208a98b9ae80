"""The images are what they promise: pinned, unprivileged, fit for a read-only root, runnable."""

import re
import subprocess
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from tests.docker.dockerfile import ROOT, Dockerfile, expand, read

from penstock.cli.command import Parser
from penstock.cli.main import COMMANDS
from penstock.config import FLAGS, ServerOptions
from penstock.version import __version__

LABELS = {
    f"org.opencontainers.image.{name}"
    for name in (
        "title",
        "description",
        "source",
        "revision",
        "version",
        "licenses",
        "created",
        "base.name",
        "base.digest",
    )
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(params=["Dockerfile", "Dockerfile.cpu"])
def image(request: pytest.FixtureRequest) -> Dockerfile:
    """Each of the images."""
    return read(ROOT / "docker" / str(request.param))


def test_every_base_is_pinned_to_a_patch_release(image: Dockerfile) -> None:
    """The same file builds the same image tomorrow: no `latest`, no bare minor version."""
    for stage in image.stages:
        tag = stage.base.rpartition(":")[2]

        assert re.match(r"\d+\.\d+\.\d+", tag), stage.base


def test_the_image_is_built_in_stages_and_keeps_only_the_environment(image: Dockerfile) -> None:
    """Sources and caches of the build are not part of the image."""
    copied = [copy.value for copy in image.final.all("COPY")]

    assert copied == ["--from=build /opt/penstock /opt/penstock"]
    assert [stage.name for stage in image.stages] == ["build", "runtime"]


def test_what_is_copied_exists_and_reaches_the_build(image: Dockerfile) -> None:
    """COPY names files of the repository that .dockerignore lets through."""
    allowed = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }

    for copy in image.stages[0].all("COPY"):
        for source in copy.words()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.partition("/")[0] in allowed, source


def test_everything_that_the_wheel_needs_is_copied(image: Dockerfile) -> None:
    """The folders of the packages, the readme and the licence are there before the install."""
    copied = {word for copy in image.stages[0].all("COPY") for word in copy.words()[:-1]}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    packages = {path.partition("/")[0] for path in wheel["targets"]["wheel"]["packages"]}

    assert {*packages, PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"} <= copied


def test_the_server_is_no_root_and_any_uid_of_group_0_will_do(image: Dockerfile) -> None:
    """A numeric user (so that a platform can check it), the group that OpenShift gives."""
    assert image.final.last("USER").value == "10001:0"
    assert image.final.instructions.index(image.final.last("USER")) > max(
        image.final.instructions.index(run) for run in image.final.all("RUN")
    )


def test_all_that_is_written_to_is_in_a_declared_and_writable_place(image: Dockerfile) -> None:
    """With a read-only root, caches, home and temporary files lie in the volumes."""
    volumes = image.final.last("VOLUME").words()
    made = " ".join(run.value for run in image.final.all("RUN"))
    written = {
        name: value
        for name, value in image.final.pairs("ENV").items()
        if name in ("HOME", "TMPDIR", "XDG_CACHE_HOME") or "CACHE" in name
    }

    assert {"HOME", "TMPDIR", "XDG_CACHE_HOME", "CUPY_CACHE_DIR"} <= set(written)
    for value in written.values():
        assert any(value == place or value.startswith(f"{place}/") for place in volumes), value
    for place in set(volumes) - {"/tmp"}:
        assert re.search(rf"chown -R 10001:0 [^&]*{place}", made)
        assert re.search(rf"chmod -R g=u [^&]*{place}", made)


def test_the_entry_point_is_the_console_script_of_the_package(image: Dockerfile) -> None:
    """ENTRYPOINT is in exec form, so signals reach the server, and names a script that exists."""
    entry = image.final.last("ENTRYPOINT")

    module, _, function = PROJECT["scripts"][entry.words()[0]].partition(":")
    assert entry.value.startswith("[")
    assert callable(getattr(import_module(module), function))


def test_the_default_command_uses_flags_that_exist(image: Dockerfile) -> None:
    """`serve` and each of its flags are the server's own."""
    command, *flags = image.final.last("CMD").words()

    assert command in COMMANDS
    assert {flag.partition("=")[0] for flag in flags} <= {f"--{flag.name}" for flag in FLAGS}


def test_the_health_check_is_a_command_that_parses(image: Dockerfile) -> None:
    """The probe's own time-out is shorter than the one that would kill it."""
    check = image.final.last("HEALTHCHECK").value
    options, _, probe = check.partition("CMD ")
    program, command, *arguments = [word.strip('" ') for word in probe.strip("[]").split(",")]
    module = import_module(f"penstock.cli.{command}")
    parser = Parser("penstock", module.DESCRIPTION, module.EXAMPLES)
    module.add_arguments(parser)

    parsed = parser.parse_args(arguments)

    limit = re.search(r"--timeout=(\d+)s", options)
    assert program == image.final.last("ENTRYPOINT").words()[0]
    assert parsed.service == "readiness"
    assert limit is not None
    assert parsed.timeout < int(limit[1])


def test_the_ports_are_the_servers_defaults(image: Dockerfile) -> None:
    """What is exposed is what listens."""
    exposed = [int(port) for port in image.final.last("EXPOSE").words()]

    defaults = ServerOptions()
    assert exposed == [defaults.http_port, defaults.grpc_port, defaults.metrics_port]


def test_the_labels_are_complete_and_say_the_version(image: Dockerfile) -> None:
    """Whoever finds the image knows what it is, and what it was made of."""
    labels = image.final.pairs("LABEL")
    arguments = {**image.arguments, **image.final.pairs("ARG")}

    assert set(labels) == LABELS
    assert expand(labels["org.opencontainers.image.version"], arguments) == __version__
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]


def test_what_is_installed_is_an_extra_of_the_package(image: Dockerfile) -> None:
    """The default EXTRAS are declared by the package."""
    arguments = image.stages[0].pairs("ARG")
    extras = expand(arguments["EXTRAS"], arguments).split(",")

    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_every_step_is_valid_shell(image: Dockerfile) -> None:
    """A typing error in a RUN would show only on a machine that builds images."""
    for stage in image.stages:
        for run in stage.all("RUN"):
            checked = subprocess.run(
                ["sh", "-n", "-c", run.value], capture_output=True, text=True, check=False
            )

            assert checked.returncode == 0, checked.stderr


def test_no_file_of_the_images_names_a_package_index() -> None:
    """Where packages come from is the builder's choice, given as an argument."""
    for path in sorted((ROOT / "docker").iterdir()):
        assert not re.search(r"pypi|download\.pytorch", path.read_text()), path.name


def test_the_images_differ_only_in_what_cuda_needs() -> None:
    """User, volumes, ports, entry point and command of both images are the same."""
    cpu, cuda = (read(ROOT / "docker" / name).final for name in ("Dockerfile.cpu", "Dockerfile"))

    for keyword in ("USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD", "WORKDIR"):
        assert cpu.last(keyword) == cuda.last(keyword)
    assert set(cpu.pairs("ENV")) <= set(cuda.pairs("ENV"))


def test_nothing_private_can_slip_into_an_image() -> None:
    """.dockerignore forbids everything first and then names what may pass."""
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    assert lines[0] == "*"
    for line in lines[1:]:
        assert line.startswith("**/") or Path(ROOT, line[1:]).exists()
