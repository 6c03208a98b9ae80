"""Laws of ONNX models: they answer as numpy does, their configuration is their own, their weights
are in memory once per device.
"""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from tests.runtime.model_folders import context, executable, load, run, start
from tests.runtime.onnx_folders import graph, identity, linear, outside, stored, sums, version

from penstock_runtime.backends.base import Executable, ModelSource, Placement, Straight
from penstock_runtime.backends.onnx import model as onnx_model
from penstock_runtime.backends.onnx.instance import OnnxExecutable
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter, Reshape
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType, float32_to_bf16
from penstock_runtime.errors import InvalidArgument, Unavailable, Unsupported

FLOAT = TensorProto.FLOAT
NUMBERS = [
    (TensorProto.UINT8, DataType.UINT8),
    (TensorProto.UINT16, DataType.UINT16),
    (TensorProto.UINT32, DataType.UINT32),
    (TensorProto.UINT64, DataType.UINT64),
    (TensorProto.INT8, DataType.INT8),
    (TensorProto.INT16, DataType.INT16),
    (TensorProto.INT32, DataType.INT32),
    (TensorProto.INT64, DataType.INT64),
    (TensorProto.FLOAT16, DataType.FP16),
    (TensorProto.FLOAT, DataType.FP32),
    (TensorProto.DOUBLE, DataType.FP64),
    (TensorProto.BOOL, DataType.BOOL),
]


def rows(count: int, width: int = 4) -> Any:
    return np.arange(count * width, dtype=np.float32).reshape(count, width) / 8


def answered(source: ModelSource, *batches: dict[str, Any]) -> tuple[ModelConfig, list[Any]]:
    """The completed configuration, and the outputs of each batch, of one load."""
    config, loaded = load(source)
    made = cast(Executable, loaded.executable(Placement("m_0")))
    answers = [made.execute(batch, [context()]) for batch in batches]
    made.close()
    loaded.close()
    return config, answers


def test_sum_and_difference_are_those_of_numpy(tmp_path: Path) -> None:
    """Two inputs that do not commute, two outputs, any number of rows."""
    with executable(stored(tmp_path, sums())) as made:
        answers = [
            cast(Executable, made).execute({"a": rows(n), "b": rows(n)[::-1]}, [context()])
            for n in (1, 3, 7)
        ]

    for count, answer in zip((1, 3, 7), answers, strict=True):
        a, b = rows(count), rows(count)[::-1]
        np.testing.assert_array_equal(answer["sum"], a + b)
        np.testing.assert_array_equal(answer["difference"], a - b)


@pytest.mark.parametrize(("kind", "datatype"), NUMBERS)
def test_every_number_goes_through_unchanged(kind: int, datatype: DataType, tmp_path: Path) -> None:
    """The datatype of the configuration is the model's, and the bits stay as they are."""
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(datatype.numpy)

    config, (answer,) = answered(stored(tmp_path, identity(kind)), {"x": values})

    assert config.input == (ModelInput("x", datatype, (3,)),)
    assert answer["y"].dtype == datatype.numpy
    np.testing.assert_array_equal(answer["y"], values)


def test_bf16_goes_in_and_out_as_halves(tmp_path: Path) -> None:
    """No widening on the way: the uint16 halves of an input are those of the output."""
    halves = float32_to_bf16(np.array([[0.5, -2.0, np.inf]], np.float32))
    source = stored(tmp_path, identity(TensorProto.BFLOAT16))

    config, answers = answered(source, {"x": halves}, {"x": halves[:0]})
    answer, empty = (each["y"] for each in answers)

    assert config.output == (ModelOutput("y", DataType.BF16, (3,)),)
    assert answer.dtype == np.uint16
    np.testing.assert_array_equal(answer, halves)
    assert empty.shape == (0, 3)


def test_bf16_is_what_the_model_reckons_with(tmp_path: Path) -> None:
    """Halves that are cast to float in the model have the values that they stand for."""
    cast_node = graph(
        [("CastLike", ["x", "like"], ["y"])],
        [("x", TensorProto.BFLOAT16, ("n",))],
        [("y", FLOAT, ("n",))],
        like=np.zeros(1, np.float32),
    )
    values = np.array([1.5, -3.25], np.float32)
    config = ModelConfig(
        name="m",
        input=(ModelInput("x", DataType.BF16, (-1,)),),
        output=(ModelOutput("y", DataType.FP32, (-1,)),),
    )

    answer = run(stored(tmp_path, cast_node, config), {"x": float32_to_bf16(values)})

    assert answer["y"].tolist() == values.tolist()


def test_strings_are_text_inside_and_bytes_outside(tmp_path: Path) -> None:
    """Text of any script, empty and with zeros in it, comes back to the byte."""
    values = np.array([["ä€😀".encode(), b"", b"a\0b"]], dtype=object)

    answer = run(stored(tmp_path, identity(TensorProto.STRING)), {"x": values})

    assert answer["y"].dtype == object
    assert answer["y"].tolist() == values.tolist()


def test_bytes_that_are_no_text_are_the_callers_mistake(tmp_path: Path) -> None:
    """The input and the byte are named; the model is none the worse."""
    bad = np.array([[b"ok", b"a\xff", b""]], dtype=object)

    with executable(stored(tmp_path, identity(TensorProto.STRING))) as made:
        instance = cast(Executable, made)
        with pytest.raises(InvalidArgument, match=r"'x' has a string .* 0xff at offset 1"):
            instance.execute({"x": bad}, [context()])
        after = instance.execute({"x": bad[:, :1].repeat(3, axis=1)}, [context()])

    assert after["y"].tolist() == [[b"ok"] * 3]


def test_outputs_are_views_and_inputs_are_lent(tmp_path: Path) -> None:
    """An output's memory is the session's own; unaligned and reversed inputs are right as well."""
    source = stored(tmp_path, identity(FLOAT, ("n",)))
    odd = np.frombuffer(memoryview(b"\0" + rows(1).tobytes())[1:], np.float32)

    _, answers = answered(source, {"x": odd}, {"x": rows(1)[0][::-1]})
    answer, turned = (each["y"] for each in answers)

    assert not odd.flags.aligned
    assert not answer.flags.owndata
    np.testing.assert_array_equal(answer, odd)
    np.testing.assert_array_equal(turned, rows(1)[0][::-1])


def test_a_model_with_a_free_first_dimension_is_batched(tmp_path: Path) -> None:
    """As Triton completes it: a batch of four, the dynamic batcher, dims without the batch."""
    config, loaded = load(stored(tmp_path, sums(dims=("batch", "length"))))
    loaded.close()

    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 4
    assert config.dynamic_batching == DynamicBatching()
    assert config.input == tuple(ModelInput(n, DataType.FP32, (-1,)) for n in "ab")
    assert [output.name for output in config.output] == ["sum", "difference"]


def test_a_model_with_fixed_dims_is_not_batched(tmp_path: Path) -> None:
    """All dims are the configuration's, and no batcher is added."""
    config, loaded = load(stored(tmp_path, sums(dims=(2, 4))))
    loaded.close()

    assert config.max_batch_size == 0
    assert config.dynamic_batching is None
    assert config.input[0].dims == (2, 4)


def test_one_fixed_first_dimension_is_enough_for_no_batch(tmp_path: Path) -> None:
    """A batch has to be one in every tensor."""
    total = graph(
        [("ReduceSum", ["x"], ["y"])], [("x", FLOAT, ("batch", 4))], [("y", FLOAT, (1, 1))]
    )
    source = stored(tmp_path, total)

    config, loaded = load(source)
    loaded.close()

    assert config.max_batch_size == 0
    assert config.input == (ModelInput("x", DataType.FP32, (-1, 4)),)
    assert run(source, {"x": rows(2)})["y"].tolist() == [[float(rows(2).sum())]]


def test_a_scalar_stays_one(tmp_path: Path) -> None:
    """No dims are no dims, in and out."""
    scalar = graph([("Neg", ["x"], ["y"])], [("x", FLOAT, ())], [("y", FLOAT, ())])

    assert run(stored(tmp_path, scalar), {"x": np.array(2, np.float32)})["y"].tolist() == -2.0


def declared(**changes: Any) -> ModelConfig:
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=tuple(ModelInput(name, DataType.FP32, (4,)) for name in "ab"),
        output=(ModelOutput("sum", DataType.FP32, (4,)),),
    )
    return replace(config, **changes)


def test_a_configuration_may_leave_outputs_out(tmp_path: Path) -> None:
    """Only what is declared is computed."""
    answer = run(stored(tmp_path, sums(), declared()), {"a": rows(1), "b": rows(1)})

    assert set(answer) == {"sum"}


def test_only_what_is_asked_for_is_computed(tmp_path: Path) -> None:
    """Outputs that no request of the batch names are left out."""
    inputs = {"a": rows(2), "b": rows(2)}
    source = stored(tmp_path, sums())

    assert set(run(source, inputs, context("difference"))) == {"difference"}
    assert set(run(source, inputs, context("sum"), context("difference"))) == {"sum", "difference"}
    assert set(run(source, inputs, context("sum"), context())) == {"sum", "difference"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": (ModelInput("c", DataType.FP32, (4,)),)}, "input 'c', which the model does not"),
        ({"output": (ModelOutput("c", DataType.FP32, (4,)),)}, "output 'c', which the model"),
        ({"input": declared().input[:1]}, "needs the input 'b'"),
        (
            {"input": (ModelInput("a", DataType.FP64, (4,)), declared().input[1])},
            "input 'a' is FP64 in the configuration, but FP32",
        ),
        (
            {"input": (ModelInput("a", DataType.FP32, (5,)), declared().input[1])},
            r"'a' has the shape \[-1, 5\] in the configuration, but \[-1, 4\]",
        ),
        ({"max_batch_size": 0}, r"the shape \[4\] in the configuration"),
    ],
)
def test_a_configuration_that_contradicts_the_model_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """What, which, here and there."""
    with pytest.raises(InvalidArgument, match=message):
        start(stored(tmp_path, sums(), declared(**changes)))


def test_a_batch_needs_a_dimension_of_its_own(tmp_path: Path) -> None:
    """max_batch_size over a fixed first dimension is refused."""
    with pytest.raises(InvalidArgument, match="whose first dimension is no batch"):
        start(stored(tmp_path, sums(dims=(2, 4)), declared()))
    with pytest.raises(InvalidArgument, match="whose first dimension is no batch"):
        load(stored(tmp_path / "b", sums(dims=(2, 4)), ModelConfig(name="m", max_batch_size=2)))


def test_reshape_is_what_the_model_sees(tmp_path: Path) -> None:
    """The reshaped dims are held against the model's, not those of the clients."""
    one = ModelInput("x", DataType.FP32, (1,), reshape=Reshape(()))
    config = ModelConfig(
        name="m",
        max_batch_size=2,
        input=(one,),
        output=(ModelOutput("y", DataType.FP32, (1,), reshape=Reshape(())),),
    )

    answer = run(
        stored(tmp_path, identity(FLOAT, ("batch",)), config), {"x": np.ones(2, np.float32)}
    )

    assert answer["y"].tolist() == [1.0, 1.0]


def test_an_input_with_a_value_of_its_own_is_optional(tmp_path: Path) -> None:
    """It is taken where the configuration names it, and has its value where it does not."""
    scaled = graph(
        [("Mul", ["x", "factor"], ["y"])],
        [("x", FLOAT, ("batch", 2)), ("factor", FLOAT, (1,))],
        [("y", FLOAT, ("batch", 2))],
        factor=np.array([3], np.float32),
    )
    ones = np.ones((1, 2), np.float32)
    config = ModelConfig(
        name="m",
        input=(
            ModelInput("x", DataType.FP32, (-1, 2)),
            ModelInput("factor", DataType.FP32, (1,), optional=True),
        ),
        output=(ModelOutput("y", DataType.FP32, (-1, 2)),),
    )

    alone = run(stored(tmp_path / "a", scaled), {"x": ones})
    given = run(
        stored(tmp_path / "b", scaled, config), {"x": ones, "factor": np.array([5], np.float32)}
    )

    assert alone["y"].tolist() == [[3, 3]]
    assert given["y"].tolist() == [[5, 5]]


def test_instances_of_a_device_share_one_session(tmp_path: Path) -> None:
    """However many start at once, the file is loaded once and counted once."""
    source = stored(tmp_path, linear(np.ones((4, 2), np.float32)))
    _, loaded = load(source)
    made: list[OnnxExecutable] = []

    def start(number: int) -> None:
        made.append(cast(OnnxExecutable, loaded.executable(Placement(f"m_{number}"))))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sessions = {id(one._session) for one in made}
    held = loaded.memory_bytes()
    made[0].close()
    rest = made[1].execute({"x": rows(1)}, [context()])
    with pytest.raises(Unavailable):
        made[0].execute({"x": rows(1)}, [context()])
    for one in made:
        one.close()
    loaded.close()

    assert len(sessions) == 1
    assert held == {"cpu": (source.directory / "model.onnx").stat().st_size}
    assert rest["y"].shape == (1, 2)
    assert loaded.memory_bytes() == {}


def test_the_short_way_answers_as_the_long_one(tmp_path: Path) -> None:
    """A model with one output can be called with arrays and nothing else."""
    with executable(stored(tmp_path, linear(np.eye(4, dtype=np.float32)))) as made:
        assert isinstance(made, Straight)
        assert made.straight is not None
        short = made.straight(x=rows(2))
        long = cast(Executable, made).execute({"x": rows(2)}, [context()])

    np.testing.assert_array_equal(short, long["y"])
    with executable(stored(tmp_path / "two", sums())) as made:
        assert cast(Straight, made).straight is None


def test_weights_beside_the_model_are_loaded_and_counted(tmp_path: Path) -> None:
    """External data in the version directory is part of the model."""
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    source = stored(tmp_path, outside(linear(weights), "weights/w.bin"))
    (source.directory / "weights").mkdir()
    (source.directory / "weights" / "w.bin").write_bytes(weights.tobytes())

    answer = run(source, {"x": rows(3)})
    _, loaded = load(source)
    loaded.executable(Placement("m_0")).close()
    held = loaded.memory_bytes()["cpu"]
    loaded.close()

    np.testing.assert_allclose(answer["y"], rows(3) @ weights)
    assert held == (source.directory / "model.onnx").stat().st_size + weights.nbytes


def parameters(**given: str) -> ModelConfig:
    made = {key.replace("__", "."): ModelParameter(value) for key, value in given.items()}
    return ModelConfig(name="m", parameters=made)


def test_parameters_reach_the_session(tmp_path: Path) -> None:
    """Threads, mode, memory, optimisation and entries are as the configuration says."""
    config = replace(
        parameters(
            intra_op_thread_count="3",
            inter_op_thread_count="2",
            execution_mode="1",
            enable_mem_arena="0",
            enable_mem_pattern="0",
            session__intra_op__allow_spinning="1",
        ),
        extra={"optimization": {"graph": {"level": 1}}},
    )
    with executable(stored(tmp_path, identity(FLOAT), config)) as made:
        settings = cast(OnnxExecutable, made)._session.get_session_options()

    ort = onnxruntime
    assert settings.intra_op_num_threads == 3
    assert settings.inter_op_num_threads == 2
    assert settings.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert settings.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert not settings.enable_cpu_mem_arena
    assert not settings.enable_mem_pattern
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert settings.get_session_config_entry("session.inter_op.allow_spinning") == "0"


@pytest.mark.parametrize("text", ["-1", "many", "99999999999", "1025"])
def test_a_thread_count_is_a_number(text: str, tmp_path: Path) -> None:
    """Anything else ends the load and names the parameter."""
    with pytest.raises(InvalidArgument, match="parameter intra_op_thread_count is"):
        load(stored(tmp_path, sums(), parameters(intra_op_thread_count=text)))


def accelerated(field: str, name: str, **options: str) -> ModelConfig:
    given = {field: [{"name": name, "parameters": options}]}
    return ModelConfig(name="m", extra={"optimization": {"execution_accelerators": given}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (accelerated("cpu_execution_accelerator", "magic"), "'magic', expected one of openvino"),
        (accelerated("gpu_execution_accelerator", "tensorrt", a="b"), "has no parameter 'a'"),
        (
            accelerated("gpu_execution_accelerator", "tensorrt", precision_mode="FP7"),
            "'precision_mode' with the value 'FP7'",
        ),
        (
            ModelConfig(name="m", extra={"optimization": {"graph": {"level": 9}}}),
            "optimization.graph.level is 9",
        ),
    ],
)
def test_what_no_provider_knows_is_refused(
    config: ModelConfig, message: str, tmp_path: Path
) -> None:
    """Accelerators, their parameters and levels are those of a list."""
    with pytest.raises(InvalidArgument, match=message):
        load(stored(tmp_path, sums(), config))


def test_an_accelerator_that_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silently the CPU: the provider and those that there are are named."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    source = stored(tmp_path, sums(), accelerated("cpu_execution_accelerator", "openvino"))
    _, loaded = load(source)

    with pytest.raises(Unsupported, match=r"OpenVINOExecutionProvider .* has CPUExecutionProvider"):
        loaded.executable(Placement("m_0"))
    with pytest.raises(Unsupported, match="CUDAExecutionProvider"):
        loaded.executable(Placement("m_0", "KIND_GPU", 0))
    loaded.close()


def test_a_gpu_instance_gets_its_providers_and_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT with its options first, then CUDA, then the CPU, each on the instance's device."""
    opened: list[Any] = []
    trt, cuda = "TensorrtExecutionProvider", "CUDAExecutionProvider"
    config = accelerated("gpu_execution_accelerator", "tensorrt", precision_mode="FP16")
    _, loaded = load(stored(tmp_path, sums(), config))
    real = onnxruntime.InferenceSession

    class Session(real):  # type: ignore[misc,valid-type]
        """Says that it has what it was asked for, and executes on the CPU."""

        def __init__(self, path: str, settings: Any, providers: Any) -> None:
            opened.append(providers)
            super().__init__(path, settings, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [name for name, _ in opened[-1]]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [trt, cuda])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    loaded.executable(Placement("m_0", "KIND_GPU", 1)).close()
    held = loaded.memory_bytes()
    loaded.close()

    assert onnx_model.has_cuda()
    assert opened == [
        [
            (trt, {"device_id": "1", "trt_fp16_enable": "1"}),
            (cuda, {"device_id": "1"}),
            ("CPUExecutionProvider", {}),
        ]
    ]
    assert list(held) == ["cuda:1"]


def test_a_provider_that_does_not_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would go on without it: an instance on a GPU is one, or none."""
    _, loaded = load(stored(tmp_path, sums()))
    real = onnxruntime.InferenceSession
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: cuda)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, settings, providers: real(path, settings, providers=providers[-1:]),
    )

    with pytest.raises(Unsupported, match="CUDAExecutionProvider of ONNX Runtime did not start"):
        loaded.executable(Placement("m_0", "KIND_GPU", 0))
    loaded.close()


def test_a_named_file_is_the_model(tmp_path: Path) -> None:
    """default_model_filename says which."""
    source = stored(tmp_path, identity(FLOAT))
    (source.directory / "model.onnx").rename(source.directory / "other.onnx")
    config = ModelConfig(name="m", default_model_filename="other.onnx")

    assert run(replace(source, config=config), {"x": np.ones((1, 3), np.float32)})["y"].sum() == 3


def test_triton_s_names_lead_here(tmp_path: Path) -> None:
    """platform onnxruntime_onnx and backend onnxruntime are this backend."""
    source = stored(tmp_path, identity(FLOAT), ModelConfig(name="m", platform="onnxruntime_onnx"))

    config, loaded = load(source)
    loaded.close()

    assert config.platform == "onnxruntime_onnx"
    assert load(replace(source, config=ModelConfig(name="m", backend="onnxruntime")))[0].input
    assert version(tmp_path / "none").is_dir()
