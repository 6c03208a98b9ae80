"""Figures of a load, the process behind a port, and the pieces of the demo."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.command import CommandError
from penstock.cli.demo import choose, read_samples
from penstock.cli.demo_calls import requests
from penstock.cli.demo_pictures import gallery, picture
from penstock.cli.measurement import Sample, percentile, summarise
from penstock.cli.server_process import ServerProcess, find_server
from penstock.codec.decode import decode_request
from penstock_protos import inference as pb
from penstock_protos.pool import POOL
from penstock_runtime.tensor import Tensor

S = 1_000_000_000


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0, 1))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(values: list[int], share: float) -> None:
    """At least that share of the values is at most the percentile, which is one of them."""
    ordered = sorted(values)

    found = percentile(ordered, share)

    assert found in ordered
    assert sum(value <= found for value in ordered) >= share * len(ordered)


def test_a_sample_becomes_rates() -> None:
    """Requests over time, CPU over time, requests over CPU."""
    sample = Sample(4, 2 * S, [1_000_000] * 99 + [50_000_000], 300, {"BUSY": 2}, 1.0, 0.5)

    summary = summarise(sample)

    assert (summary.requests_per_s, summary.messages_per_s, summary.errors) == (50, 150, 2)
    assert (summary.p50_ms, summary.p99_ms, summary.max_ms) == (1, 1, 50)
    assert (summary.client_cpu, summary.server_cpu) == (0.5, 0.25)
    assert summary.requests_per_cpu_s == 200


def test_a_sample_of_failures_has_no_latencies() -> None:
    """Nothing succeeded, nothing is divided by zero."""
    summary = summarise(Sample(1, S, [], 0, {"BUSY": 3}, 0.1))

    assert (summary.requests_per_s, summary.p99_ms, summary.errors) == (0, 0, 3)
    assert summary.server_cpu is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_the_process_behind_a_local_port_is_found() -> None:
    """The listener is this process; nobody listens on a port that is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = find_server(f"localhost:{port}")

    assert found == ServerProcess(os.getpid())
    assert (found.cpu_seconds() or 0) > 0
    assert find_server(f"localhost:{port}") is None
    assert find_server("gpu-host:8001") is None


# -- the demo --------------------------------------------------------------------------------------


def test_a_picture_is_as_high_as_its_image_and_twice_as_wide() -> None:
    """Dark is blank, bright is full."""
    rows = picture(np.array([[0, 16], [8, 99]], np.float32), 16)

    assert rows == ["  ██", "▒▒██"]


def test_a_gallery_stands_side_by_side() -> None:
    """Captions are centred below their pictures."""
    images = [np.full((1, 3), 16, np.float32)] * 3

    text = gallery(images, ["a", "b", "c"], 16, across=2)

    assert text == "██████  ██████\n  a       b\n\n██████\n  c"


def test_the_digits_shown_include_a_mistake() -> None:
    """One of each digit, and the first that the model got wrong."""
    labels = np.arange(30) % 10
    answers = labels.copy()
    answers[17] = 1

    shown = choose(answers, labels)

    assert sorted(labels[shown].tolist()) == list(range(10))
    assert 17 in shown


def test_the_lines_for_grpcurl_are_requests_that_the_server_reads() -> None:
    """The JSON is the protocol's, and decodes to the tensors it names."""
    for _, request in requests(np.zeros((8, 8), np.float32)):
        message = json_format.ParseDict(request, pb.ModelInferRequest(), descriptor_pool=POOL)
        decoded = decode_request(message.SerializeToString(), 0)

        assert decoded.model_name == request["model_name"]
        assert all(isinstance(tensor, Tensor) for tensor in decoded.inputs)


def test_samples_that_are_none_are_refused(tmp_path: Path) -> None:
    """A file without images says so."""
    np.savez(tmp_path / "x.npz", other=np.zeros(1))

    with pytest.raises(CommandError, match="holds no images and labels"):
        read_samples(tmp_path / "x.npz")
