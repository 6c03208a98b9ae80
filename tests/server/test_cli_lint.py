"""`penstock lint`: where each mistake stands, and what it says of whole repositories."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.config_lines import field_lines, line_of
from penstock.cli.lint import lint
from penstock.cli.main import main

TEXT = """\
# a comment { with a bracket
name: "m }"
max_batch_size: 8
input [
  {
    name: "A"
    dims: [ 4,
            0 ]
  },
  { name: "B" dims: -1 dims: 3 }
]
dynamic_batching {
  preferred_batch_size: 4
  default_queue_policy <
    max_queue_size: 3
  >
}
parameters { key: "k" value { string_value: "v" } }
"""
JSON = """\
{
  "name": "m",
  "input": [
    {"name": "A", "dims": [4, 0]},
    {"name": "B",
     "dims": [3]}
  ]
}
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("name", 2),
        ("max_batch_size", 3),
        ("input", 4),
        ("input[0]", 5),
        ("input[0].dims", 7),
        ("input[0].dims[1]", 8),
        ("input[1].dims[1]", 10),
        ("input[1].no_such_field", 10),
        ("dynamic_batching.preferred_batch_size[0]", 13),
        ("dynamic_batching.default_queue_policy.max_queue_size", 15),
        ("parameters[k].value", 18),
        ("no_such_field", 0),
    ],
)
def test_protobuf_text_has_lines(field: str, line: int) -> None:
    """A field's line, else that of what holds it, else 0."""
    assert line_of(TEXT, field) == line


@pytest.mark.parametrize(
    ("field", "line"), [("name", 2), ("input[0].dims[1]", 4), ("input[1].dims", 6)]
)
def test_json_has_lines(field: str, line: int) -> None:
    """The same for JSON."""
    assert line_of(JSON, field) == line


@given(st.text(alphabet="ab1\"'{}[]<>:,;#\n \\.", max_size=200))
def test_lines_are_found_in_any_text(text: str) -> None:
    """Whatever the text: it ends, and every line is one of the text."""
    lines = field_lines(text)

    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def test_deeply_nested_text_is_no_trouble() -> None:
    """A nested bomb does not exhaust the stack."""
    assert line_of("a { " * 100_000, "a") == 1


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    configs = {
        "good": "max_batch_size: 4\n",
        "shape": 'input { name: "A" data_type: TYPE_FP32\n dims: 0 }\n',
        "text": 'max_batch_size: 4\nmax_bach_size: "x\n',
        "named": 'max_batch_size: 1\nname: "other"\n',
    }
    for name, text in configs.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    (tmp_path / "plain" / "1").mkdir(parents=True)
    return tmp_path


def test_every_mistake_of_a_repository_is_found(repository: Path) -> None:
    """One run tells the mistakes of all models, each with its line."""
    count, findings = lint(repository)

    places = {(finding.place, finding.line) for finding in findings if finding.severity == "error"}
    assert count == 5
    assert places == {
        ("shape/config.pbtxt", 2),
        ("text/config.pbtxt", 2),
        ("named/config.pbtxt", 2),
    }


def test_findings_say_what_and_how_to_mend_it(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line has place, severity, field, value and the fix; the last one counts; the code is 1."""
    code = main(["lint", str(repository)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert lines[-1] == "5 models, 3 errors, 0 warnings"
    shape = next(line for line in lines if line.startswith("shape/"))
    assert shape.startswith("shape/config.pbtxt:2: error: input[0].dims[0]: must be > 0")
    assert shape.endswith(")")


@pytest.mark.parametrize("path", ["", "m", "m/config.pbtxt"])
def test_label_files_that_are_not_there_are_found(tmp_path: Path, path: str) -> None:
    """At the line that names them; one that is there is no finding."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    config = tmp_path / "m" / "config.pbtxt"
    there, missing = ' label_filename: "labels.txt" }', '\n  label_filename: "other.txt" }'
    output = 'output { name: "%s" data_type: TYPE_FP32 dims: 2'
    config.write_text(f"{output % 'Y'}{there}\n{output % 'Z'}{missing}\n")
    (tmp_path / "m" / "labels.txt").write_text("cat\ndog\n")

    _, findings = lint(tmp_path / path)

    (found,) = (finding for finding in findings if finding.severity == "error")
    assert found.line == 3
    assert found.text.startswith("output[1].label_filename: label file 'other.txt' of output 'Z'")


def test_a_response_cache_is_doubtful_unless_the_server_is_said_to_have_one(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that asks for what its server lacks is served without."""
    (repository / "good" / "config.pbtxt").write_text("\nresponse_cache { enable: true }\n")
    folder = str(repository / "good")

    assert main(["lint", folder]) == 0
    assert "good/config.pbtxt:2: warning: response_cache: " in capsys.readouterr().out
    assert main(["lint", folder, "--strict"]) == 1
    assert main(["lint", folder, "--strict", "--cache-config=local,size=1000"]) == 0
    assert main(["lint", folder, "--strict", "--cache-config", "local,size=0"]) == 1


def test_a_clean_repository_is_success(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without mistakes only the count is printed."""
    code = main(["lint", str(repository / "good")])

    assert code == 0
    assert capsys.readouterr().out == "1 model, 0 errors, 0 warnings\n"


@pytest.mark.parametrize(
    ("text", "file", "line", "said"),
    [
        ('\nplatform: "tensorrt_plan"\n', "model.plan", 2, "platform is 'tensorrt_plan', expected"),
        ('max_batch_size: 1\nbackend: "vllm"\n', "", 2, "backend is 'vllm', expected one of"),
        ("max_batch_size: 1\n", "saved_model.pb", 0, "nothing that a backend recognises"),
        (
            'backend: "python"\nsequence_batching { }\n'
            'input { name: "X" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }\n',
            "model.py",
            0,
            "asks for ragged batches of sequences, which is not available",
        ),
    ],
)
def test_a_model_that_no_backend_serves_is_an_error(
    tmp_path: Path, text: str, file: str, line: int, said: str
) -> None:
    """What a server would refuse whatever is in the files is told before it is started."""
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(text)
    if file:
        (version / file).write_text("")

    _, findings = lint(tmp_path)

    errors = [finding for finding in findings if finding.severity == "error"]
    assert [(finding.place, finding.line) for finding in errors] == [("m/config.pbtxt", line)]
    assert said in errors[0].text


def test_an_environment_of_its_own_is_an_error(tmp_path: Path) -> None:
    """Triton unpacks it for a model; here the load would be refused."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    value = '{ string_value: "env.tar.gz" }'
    text = f'max_batch_size: 1\nparameters {{ key: "EXECUTION_ENV_PATH" value {value} }}\n'
    (tmp_path / "m" / "config.pbtxt").write_text(text)

    _, (found,) = lint(tmp_path)

    assert (found.line, found.severity) == (2, "error")
    assert "EXECUTION_ENV_PATH" in found.text


def test_a_version_that_is_still_empty_is_no_error(tmp_path: Path) -> None:
    """Configurations are kept where the weights are not; what is hidden does not count."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / ".gitkeep").write_text("")

    assert lint(tmp_path) == (1, [])


def test_one_file_can_be_checked(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path may be a configuration file."""
    code = main(["lint", str(repository / "text" / "config.pbtxt")])

    out = capsys.readouterr().out
    assert code == 1
    assert "config.pbtxt:2: error:" in out
    assert "did you mean max_batch_size?" in out


def test_a_model_without_versions_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a configuration and nothing to serve is found, with the way out."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").write_text("")

    code = main(["lint", str(tmp_path)])

    assert code == 1
    assert "empty: error: the model has no version folder (put its files into empty/1)" in (
        capsys.readouterr().out
    )
