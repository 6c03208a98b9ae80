"""Options are declared once; a flag wins over the environment, that over the file."""

from dataclasses import fields
from pathlib import Path

import pytest

from penstock.config import FLAGS, FOREIGN_FLAGS, GROUPS, ServerOptions
from penstock.config_sources import read_options


def fails(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """What a command line that cannot be read prints."""
    with pytest.raises(SystemExit) as end:
        read_options(argv, environ)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_without_anything_every_option_has_its_default() -> None:
    """The defaults are those of the declaration; only the drain delay, and HTTP where it is
    installed, are worked out.
    """
    options = read_options((), {})

    assert options == ServerOptions(drain_delay=0.0, allow_http=True)


def test_defaults_are_those_of_triton() -> None:
    """Who leaves a flag out gets what Triton would do."""
    o = ServerOptions()

    assert (o.http_port, o.grpc_port, o.metrics_port) == (8000, 8001, 8002)
    assert o.http_max_input_size == 64 << 20
    assert (o.grpc_keepalive_time, o.grpc_keepalive_timeout) == (7_200_000, 20_000)
    assert o.grpc_http2_min_recv_ping_interval_without_data == 300_000
    assert (o.grpc_http2_max_pings_without_data, o.grpc_http2_max_ping_strikes) == (2, 2)
    assert (o.exit_timeout_secs, o.strict_readiness, o.exit_on_error) == (30, True, True)
    assert (o.model_control_mode, o.repository_poll_secs) == ("none", 15.0)
    assert (o.model_load_thread_count, o.model_load_retry_count) == (4, 0)


def test_a_value_may_follow_an_equals_sign_or_a_blank() -> None:
    """Both spellings mean the same."""
    a = read_options(("--grpc-port=9000", "--model-repository=/m"), {})
    b = read_options(("--grpc-port", "9000", "--model-repository", "/m"), {})

    assert a == b
    assert (a.grpc_port, a.model_repository) == (9000, ("/m",))


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("false", False), ("0", False), ("False", False)],
)
def test_a_switch_takes_the_words_that_triton_takes(text: str, value: bool) -> None:
    """true, false, 1 and 0, in any case; the bare flag is true."""
    assert read_options((f"--reuse-grpc-port={text}",), {}).reuse_grpc_port is value
    assert read_options(("--reuse-grpc-port",), {}).reuse_grpc_port is True


def test_a_repeated_flag_gathers_its_values() -> None:
    """Several repositories, models and addresses, in the order given."""
    argv = ("--model-repository=/a", "--model-store=/b", "--load-model=x", "--load-model=*")
    options = read_options((*argv, "--grpc-address=unix:/s", "--grpc-address=127.0.0.1"), {})

    assert options.model_repository == ("/a", "/b")
    assert options.load_model == ("x", "*")
    assert options.grpc_address == ("unix:/s", "127.0.0.1")


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """The nearer source wins, option by option."""
    file = tmp_path / "options.json"
    file.write_text('{"grpc-port": 1, "metrics_port": 2, "server-name": "from file"}')
    environ = {"PENSTOCK_GRPC_PORT": "10", "PENSTOCK_METRICS_PORT": "20"}

    options = read_options((f"--config-file={file}", "--grpc-port=100"), environ)

    assert (options.grpc_port, options.metrics_port) == (100, 20)
    assert options.server_name == "from file"


def test_the_file_may_be_named_by_the_environment_and_be_yaml(tmp_path: Path) -> None:
    """YAML lists are repeated options."""
    file = tmp_path / "options.yaml"
    file.write_text("model-repository: [/a, /b]\nstrict-readiness: false\n")

    options = read_options((), {"PENSTOCK_CONFIG_FILE": str(file)})

    assert options.model_repository == ("/a", "/b")
    assert options.strict_readiness is False


def test_the_environment_separates_values_by_commas() -> None:
    """One variable holds all values of a repeated option."""
    options = read_options((), {"PENSTOCK_MODEL_REPOSITORY": "/a, /b"})

    assert options.model_repository == ("/a", "/b")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--grpc-port=70000",), "at most 65535"),
        (("--grpc-port=x",), "expected int"),
        (("--exit-timeout-secs=-1",), "at least 0"),
        (("--model-control-mode=auto",), "expected one of none, poll, explicit"),
        (("--strict-readiness=maybe",), "expected bool"),
        (("--grpc-prot=1",), "did you mean --grpc-port"),
        (("--config-file=/nowhere.json",), "cannot read --config-file"),
        (("--grpc-restricted-protocol=x",), "expected <group>[,<group>]:<key>=<value>"),
        (("--http-restricted-api=x",), "--http-restricted-api: expected <group>[,<group>]"),
        (("--http-max-input-size=0",), "at least 1"),
        (("--max-shm-regions=0",), "at least 1"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(
    argv: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option ends the start with one clear line and code 2."""
    assert part in fails(capsys, *argv)


def test_a_wrong_variable_or_file_entry_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The source of a wrong value is part of the message."""
    file = tmp_path / "o.json"
    file.write_text('{"grpc_prot": 1}')

    assert "PENSTOCK_GRPC_PORT: expected int" in fails(capsys, PENSTOCK_GRPC_PORT="x")
    assert "did you mean --grpc-port" in fails(capsys, f"--config-file={file}")


def test_flags_of_triton_without_effect_are_accepted_and_remembered() -> None:
    """A Triton command line starts this server; what it ignores can be told."""
    options = read_options(
        ("--http-thread-count=8", "--backend-config=python,x=1", "--allow-sagemaker=false"), {}
    )

    assert options.ignored == ("http-thread-count", "backend-config", "allow-sagemaker")


def test_without_its_libraries_http_is_off_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who says nothing gets gRPC and a line in the log; who asks for HTTP is told what it needs."""
    monkeypatch.setattr("penstock.options.http.http_is_installed", lambda: False)

    silent, asked = read_options((), {}), read_options(("--allow-http",), {})

    assert (silent.allow_http, "penstock[http]" in silent.http_off) == (False, True)
    assert (asked.allow_http, asked.http_off) == (True, "")


@pytest.mark.parametrize(
    ("argv", "served"),
    [
        (("--grpc-use-ssl",), False),
        (("--grpc-use-ssl-mutual",), False),
        (("--grpc-restricted-protocol=logging,health:a=b",), False),
        (("--grpc-restricted-protocol=health:a=b", "--http-restricted-api=logging:a=b"), False),
        (("--grpc-restricted-protocol=health:a=b", "--http-restricted-api=health:a=b"), True),
        (("--grpc-restricted-protocol=health:a=b", "--allow-http=true"), True),
        (("--http-restricted-api=health:a=b",), True),
    ],
)
def test_what_is_guarded_at_one_port_does_not_stand_open_at_another(
    argv: tuple[str, ...], served: bool
) -> None:
    """HTTP is not there unasked where gRPC asks for what HTTP would not; the log says why."""
    options = read_options(argv, {})

    assert (options.allow_http, options.http_off == "") == (served, served)


def test_the_drain_delay_suits_the_place() -> None:
    """Under Kubernetes traffic needs time to move away; elsewhere nobody waits. A flag wins."""
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}

    assert read_options((), kubernetes).drain_delay == 5.0
    assert read_options(("--drain-delay=1.5",), kubernetes).drain_delay == 1.5


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--allow-grpc=false", "gRPC is always served"),
        ("--trace-level=TIMESTAMPS", "say --trace-config=level=TIMESTAMPS"),
        ("--model-load-gpu-limit=0:0.5", "no limit is kept here"),
    ],
)
def test_a_flag_of_triton_that_must_not_be_ignored_ends_the_start(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port that was to stay shut does not stand open, and a limit is not thought to be kept."""
    assert said in fails(capsys, flag)


def test_a_flag_of_triton_that_is_as_it_is_here_is_accepted() -> None:
    """Switched on what is always on, and off what is not there."""
    flags = ["--allow-grpc=true", "--trace-level=OFF", "--sagemaker-port=8080"]

    assert read_options(flags, {}).ignored == ("allow-grpc", "trace-level", "sagemaker-port")


def test_the_hook_of_tritons_tests_is_read_once() -> None:
    """Black-box tests written for Triton can slow the answers of all RPCs but inference."""
    environ = {"TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC": "2"}

    assert read_options((), environ).grpc_response_delay_s == 2.0


def test_every_option_has_a_group_a_help_and_names_of_its_own() -> None:
    """Help and documentation come from the declaration, so it has to be complete."""
    names = [name for flag in FLAGS for name in (flag.name, *flag.info.aliases)]

    assert all(flag.info.group in GROUPS and flag.info.help for flag in FLAGS)
    assert len(names) == len(set(names))
    assert not set(names) & set(FOREIGN_FLAGS)
    set_by_reader = {"ignored", "http_off", "grpc_response_delay_s"}
    assert {f.name for f in fields(ServerOptions)} - set_by_reader == {f.field for f in FLAGS}
