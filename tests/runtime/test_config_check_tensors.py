"""Laws of the checks of a model as a whole, its instances and its tensors."""

from typing import Any

import pytest
from tests.runtime.config_samples import (
    SOUND,
    errors,
    found,
    group,
    tensor,
)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"name": "../m"}, "name", "'../m' is no name of a folder"),
        ({"max_batch_size": -1}, "max_batch_size", "must be >= 0, got -1"),
        (
            {"default_model_filename": "../../x.pt"},
            "default_model_filename",
            "'../../x.pt' leads out of the model's folder",
        ),
        (
            {"model_transaction_policy": {"decoupled": True}, "response_cache": {"enable": True}},
            "response_cache",
            "cannot be enabled for a decoupled model",
        ),
        (
            {"dynamic_batching": {}, "sequence_batching": {}},
            "sequence_batching",
            "cannot stand beside dynamic_batching",
        ),
        (
            {"version_policy": {"all": {}, "latest": {}}},
            "version_policy",
            "must be one of latest, all and specific, got latest and all",
        ),
        ({"version_policy": {"specific": {}}}, "version_policy.specific.versions", "is empty"),
        (
            {"version_policy": {"specific": {"versions": [2, 0]}}},
            "version_policy.specific.versions[1]",
            "must be >= 1, got 0",
        ),
        (
            {"metric_tags": {"model": "x"}},
            'metric_tags["model"]',
            "is a label that metrics have already",
        ),
        ({"metric_tags": {"a b": "x"}}, 'metric_tags["a b"]', "is no name of a label"),
    ],
)
def test_general_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """Fields that concern the model as a whole."""
    listed = errors(SOUND, **changes)

    assert listed[field] == message


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (group(count=-1), "instance_group[0].count", "must be from 1 to 1024, got -1"),
        (group(count=1_000_000), "instance_group[0].count", "must be from 1 to 1024, got 1000000"),
        (
            {"instance_group": [{"count": 1000}, {"count": 1000}]},
            "instance_group",
            "asks for 2000 instances, at most 1024 are allowed",
        ),
        (
            group(kind="KIND_CPU", gpus=[0]),
            "instance_group[0].gpus",
            "is for KIND_GPU, the kind is KIND_CPU",
        ),
        (group(gpus=[1, 1]), "instance_group[0].gpus", "'1' is given 2 times"),
        (group(gpus=[-1]), "instance_group[0].gpus[0]", "must be >= 0, got -1"),
        (
            group(rate_limiter={"resources": [{}]}),
            "instance_group[0].rate_limiter.resources[0].name",
            "is empty",
        ),
    ],
)
def test_instance_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """Counts, kinds and devices."""
    listed = errors(SOUND, **changes)

    assert listed[field] == message


@pytest.mark.parametrize(
    ("tensors", "field", "message"),
    [
        ([tensor("x", 1), tensor("x", 1)], "input", "'x' is given 2 times"),
        ([tensor("x", 0)], "input[0].dims[0]", "must be > 0, or -1 for any size, got 0"),
        ([tensor("x", 3, -2)], "input[0].dims[1]", "must be > 0, or -1 for any size, got -2"),
        ([tensor("x", 2**62, 4)], "input[0].dims", "more than 9223372036854775807 elements"),
        (
            [tensor("x", 4, format="FORMAT_NHWC")],
            "input[0].format",
            "FORMAT_NHWC needs 3 dims, got 1",
        ),
        (
            [tensor("x", 4, reshape={"shape": [3]})],
            "input[0].reshape.shape",
            "[3] has not the elements of dims [4]",
        ),
        (
            [tensor("x", 2, -1, 3, reshape={"shape": [-1, 6]})],
            "input[0].reshape.shape",
            "[-1,6] has not the elements of dims [2,-1,3]",
        ),
        (
            [tensor("x", -1, -1, reshape={"shape": [-1]})],
            "input[0].reshape.shape",
            "[-1] has not the elements of dims [-1,-1]",
        ),
    ],
)
def test_tensor_errors_are_named(tensors: list[Any], field: str, message: str) -> None:
    """Names, dimensions, formats and reshapes."""
    listed = errors({"name": "m", "input": tensors})

    assert listed == {field: message}


@pytest.mark.parametrize(
    ("dims", "shape"), [([4], [2, 2]), ([1], []), ([2, -1, 3], [1, 2, -1, 3]), ([-1], [1, -1])]
)
def test_a_reshape_of_the_same_elements_is_sound(dims: list[int], shape: list[int]) -> None:
    """Wildcards stand for themselves, sizes between them keep their product."""
    config = {"name": "m", "input": [tensor("x", *dims, reshape={"shape": shape})]}

    assert errors(config) == {}


def test_very_many_problems_stay_few() -> None:
    """The number of problems and the length of each are bounded, whatever the configuration."""
    name = "x" * 100_000
    inputs = [tensor(f"{name}{i % 2}", 0) for i in range(400)]

    listed = found({"input": inputs})

    assert len(listed) == 256
    assert all(len(problem.message) < 400 for problem in listed)
