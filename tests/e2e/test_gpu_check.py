"""Laws of the check on a GPU, told without one: it says what it would do, no step stops another,
and what the steps measure runs.
"""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks import kernel_forms, kernels
from benchmarks.gpu import check, language, served
from benchmarks.gpu.answers import WAYS, Answers
from benchmarks.gpu.figures import Figures
from benchmarks.gpu.images import Images
from benchmarks.gpu.steps import Step, steps
from benchmarks.kernel_cases import CASES
from benchmarks.roofline import Mark, roofline

from penstock_kernels.registry import KERNELS
from penstock_kernels.run import Reference
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.memory.host_deck import HostDeck

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable


def test_without_a_gpu_it_says_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--out", str(tmp_path / "none")], devices=lambda: 0) == 0

    said = capsys.readouterr().out
    assert said.startswith("No CUDA device here.")
    assert all(step.name in said and step.shows in said for step in steps(tmp_path))
    assert not (tmp_path / "none").exists()


def test_all_steps_together_stay_within_ten_minutes(tmp_path: Path) -> None:
    assert sum(step.limit_s for step in steps(tmp_path)) <= 600


def test_every_step_names_something_that_exists(tmp_path: Path) -> None:
    """Modules and tests that are not there would be found out on the GPU's time."""
    for step in steps(tmp_path):
        words = step.command
        if words[1] == "-m" and words[2].startswith("benchmarks."):
            assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").is_file()
        for word in words:
            if word.startswith("tests/"):
                assert (ROOT / word).exists()


def test_a_step_that_fails_or_hangs_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = (
        Step("bad", "", (PYTHON, "-c", "raise SystemExit('no good')"), 30),
        Step("slow", "", (PYTHON, "-c", "import time; print('begun'); time.sleep(60)"), 2),
        Step("gone", "", (str(tmp_path / "missing"),), 30),
        Step("left", "", ("x",), 30, "a-program-that-is-nowhere"),
        Step(
            "good", "", (PYTHON, "-c", "import os; print(os.environ['A'])"), 30, "", (("A", "b"),)
        ),
    )
    monkeypatch.setattr(check, "steps", lambda _: made)
    monkeypatch.setattr(check, "versions", dict)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)

    code = check.main(["--out", str(tmp_path / "out")], devices=lambda: 1)

    found = json.loads((tmp_path / "out" / "check.json").read_text())["steps"]
    assert code == 1
    outcomes = ["failed", "timed out", "failed", "left out", "passed"]
    assert [result["outcome"] for result in found] == outcomes
    assert "no good" in found[0]["why"]
    assert "begun" in found[1]["why"]
    assert (tmp_path / "out" / "good.log").read_text() == "b\n"
    assert "a-program-that-is-nowhere is not installed" in capsys.readouterr().out


def test_figures_come_with_what_they_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing tells of the devices, that is said."""
    monkeypatch.setenv("PATH", "/nowhere")

    found = check.versions()

    assert found["torch"] == torch.__version__
    assert {"cupy", "nvrtc", "numpy", "python"} <= found.keys()
    assert found["devices"] == "not told: FileNotFoundError"


def test_a_figure_that_cannot_be_had_is_told_in_its_place(tmp_path: Path) -> None:
    figures = Figures(tmp_path, "some")

    figures.add("no", lambda: 1 / 0)
    figures.add("yes", lambda: 3)

    assert figures.failed == 1
    assert json.loads((tmp_path / "some.json").read_text()) == {
        "no": {"error": "ZeroDivisionError: division by zero"},
        "yes": 3,
    }


def test_the_script_is_one_command(tmp_path: Path) -> None:
    script = (ROOT / "scripts" / "gpu_check").read_text()

    assert "benchmarks.gpu.check" in script
    assert subprocess.run(["sh", "-n", ROOT / "scripts" / "gpu_check"], check=True).returncode == 0


@pytest.mark.parametrize(("name", "millions"), [("resnet50", 25.557), ("bert_base", 109.48)])
def test_served_models_have_the_size_of_what_they_stand_for(name: str, millions: float) -> None:
    with torch.device("meta"):
        network = served.network(name)

    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_served_models_answer() -> None:
    with torch.inference_mode():
        image = served.network("resnet50").float().eval()(torch.zeros(1, 3, 224, 224))

    assert image.shape == (1, 1000)


@pytest.mark.filterwarnings("ignore")
def test_a_small_language_model_is_measured_in_every_way(tmp_path: Path) -> None:
    shape = language.Shape(32, 2, 4, 2, 64, 128, 20, (1, 3), 24, 2, 3, 1)
    cpu, figures = torch.device("cpu"), Figures(tmp_path, "language")
    loaded = prepare(language.build(shape, cpu, torch.float32), language.options())
    runner = language.runner_of(loaded, shape)

    figures.add("decode", lambda: language.decode(runner, 3, shape))
    figures.add("prefill", lambda: language.prefill(runner, shape))
    texts = []
    answers = Answers(runner, 3, 12, 128)
    for way in WAYS:
        figures.add(way, lambda w=way: answers.time(w))  # type: ignore[misc]
        texts.append(answers.texts)

    found = json.loads((tmp_path / "language.json").read_text())
    assert figures.failed == 0
    assert all(found[name]["tokens_per_s"] > 0 for name in ("decode", "prefill", *WAYS))
    assert texts[0] == texts[1]
    assert all(len(text) == 12 for text in texts[0])


def test_images_that_are_measured_are_the_same_on_either_way() -> None:
    """Of two ways to other pixels one could not be the better."""
    batch = Images(3, 20, "KIND_CPU", HostDeck(Reference()))

    joined, packed = (way() for way in batch.ways().values())

    assert joined.shape == (3, 3, 224, 224)
    assert joined.tobytes() == packed.tobytes()


def test_texts_lie_in_pages_that_the_runner_has() -> None:
    """A device would write beside its memory, and end with all figures to come."""
    for shape in (language.Shape(), language.Shape(rows=(1,)), language.Shape(rows=(256,))):
        longest = [(rows, shape.context + 1) for rows in shape.rows]
        longest += [(shape.answers, 64 + shape.answer_tokens), (1, shape.prompt)]

        used = [text.blocks[-1] for how in longest for text in language.texts(*how)]

        assert max(used) < language.blocks_of(shape)


def test_a_way_that_cannot_be_had_costs_only_its_own_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def decode(_runner: Any, rows: int, _shape: Any) -> dict[str, float]:
        made.append(rows)
        return {}

    def runner_of(_loaded: Any, _shape: Any, **how: Any) -> Any:
        if how.get("kv_cache_dtype"):
            raise RuntimeError("CUDA out of memory")
        return SimpleNamespace(memory_bytes=5)

    monkeypatch.setattr(language, "runner_of", runner_of)
    monkeypatch.setattr(language, "decode", decode)
    figures, shape = Figures(tmp_path, "language"), language.Shape(rows=(1, 2))

    for way in ("graphs, fp8 cache", "kernels"):
        language.by(way, figures, None, shape)  # type: ignore[arg-type]

    found = json.loads((tmp_path / "language.json").read_text())
    assert found["bytes of pages, graphs, fp8 cache"] == {
        "error": "RuntimeError: CUDA out of memory"
    }
    assert found["bytes of pages, kernels"] == 5
    assert made == [1, 2]


def test_what_a_client_of_the_server_said_is_why_there_is_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/sh")

    with pytest.raises(RuntimeError, match="sh: "):
        served.bench("127.0.0.1:1", "resnet50", (1,), 1)


def test_a_kernel_that_fails_costs_only_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And rows are kept as they come: a step that is cut short leaves what it had."""
    kept: list[int] = []
    measure = kernels.measure

    def failing(case: Any, *args: Any, **how: Any) -> Any:
        if (tmp_path / "kernels.json").exists():
            kept.append(len(json.loads((tmp_path / "kernels.json").read_text())["kernels"]))
        if case.kernel == "gemv":
            raise RuntimeError("an illegal memory access was encountered")
        return measure(case, *args, **how)

    monkeypatch.setattr(kernels, "measure", failing)

    code = kernels.main(["--out", str(tmp_path), "--only", "gemv", "silu_mul"])

    rows = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    problems = {row["kernel"]: row["problem"] for row in rows}
    assert code == 1
    assert "illegal memory access" in problems["gemv"]
    assert problems["silu_mul"] == ""
    assert kept == list(range(1, len(rows)))


def test_no_rival_is_compiled_once_the_time_for_that_is_up() -> None:
    budget = kernels.Budget(0.0)

    assert not budget.left
    assert kernels.Budget(60.0).left


def test_kernels_are_timed_and_counted_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernels.main(["--out", str(tmp_path), "--only", "silu_mul", "gemv"]) == 0

    found: Any = json.loads((tmp_path / "kernels.json").read_text())
    assert {row["kernel"] for row in found["kernels"]} == {"silu_mul", "gemv"}
    assert all(row["ours_us"] > 0 and row["bytes"] > 0 for row in found["kernels"])
    assert all(row["share"] is None and not row["problem"] for row in found["kernels"])
    assert "CPU, by the NumPy references" in capsys.readouterr().out
    assert not (tmp_path / "roofline.svg").exists()


def test_forms_of_a_kernel_are_set_beside_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kernel_forms.main(["--out", str(tmp_path)]) == 0

    found: Any = json.loads((tmp_path / "kernel_forms.json").read_text())
    assert len(found["forms"]) == len(kernel_forms.WORKS)
    assert all(row["scalar_us"] > 0 and row["mma_us"] > 0 for row in found["forms"])
    assert found["verdict"] in capsys.readouterr().out


def test_the_verdict_names_what_plans_should_choose_instead() -> None:
    """A difference that is within the noise changes nothing."""
    good = kernel_forms.Found("a", 100.0, 50.0, None, None, "mma")
    alike = kernel_forms.Found("b", 100.0, 103.0, None, None, "mma")
    wrong = kernel_forms.Found("c", 80.0, 103.0, None, None, "mma")

    assert kernel_forms.verdict([good, alike]) == "the plans chose the faster form in all 2 cases"
    assert kernel_forms.verdict([good, wrong]) == "the plans should choose c: scalar"


def test_cases_are_of_kernels_that_there_are() -> None:
    assert {case.kernel for case in CASES} <= set(KERNELS)


def test_a_roofline_shows_every_kernel_under_its_roof() -> None:
    marks = [Mark("gemv", 4.0, 1e13), Mark("silu_mul", 1.0, 2e12)]

    picture = roofline(marks, 4.3e12, 7.9e14, "Kernels")

    assert picture.startswith("<svg")
    assert all(mark.label in picture for mark in marks)
