"""The process behind a port, and the pieces of the demo."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format

from penstock.cli.command import CommandError
from penstock.cli.demo import choose, read_samples
from penstock.cli.demo_calls import requests
from penstock.cli.demo_pictures import gallery, picture
from penstock.cli.server_process import ServerProcess, find_server
from penstock.codec.decode import decode_request
from penstock_protos import inference as pb
from penstock_protos.pool import POOL
from penstock_runtime.tensor import Tensor


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_the_process_behind_a_local_port_is_found() -> None:
    """The listener is this process; nobody listens on a port that is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = find_server(f"localhost:{port}")

    assert found == ServerProcess((os.getpid(),))
    assert (found.cpu_seconds() or 0) > 0
    assert find_server(f"localhost:{port}") is None
    assert find_server("gpu-host:8001") is None


@pytest.mark.skipif(not Path("/proc/net/unix").exists(), reason="needs Linux's /proc")
def test_the_process_behind_a_unix_socket_is_found(tmp_path: Path) -> None:
    """Whatever name the socket had when it was bound."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + ".new")
        listener.listen()
        os.rename(path + ".new", path)
        found = find_server(f"unix://{path}")

    assert found == ServerProcess((os.getpid(),))
    assert find_server("unix:/no/such/socket") is None


WORKER = """
import socket, sys, time
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen()
    while time.process_time() < 0.3: pass
    print(flush=True)
    input()
"""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
def test_all_processes_that_share_a_port_are_the_server() -> None:
    """Each listens on a socket of its own, and what all of them have worked counts."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        with worker(WORKER, str(port)) as one, worker(WORKER, str(port)) as two:
            found = find_server(f"127.0.0.1:{port}")
            assert found is not None
            seconds = found.cpu_seconds() or 0

    assert set(found.pids) == {one.pid, two.pid}
    assert seconds >= 0.56


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_a_process_whose_parent_is_of_the_server_too_is_counted_once() -> None:
    """A child that inherited the port is in its parent's tree already."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with worker(burn) as child:
        alone = ServerProcess((child.pid,)).cpu_seconds() or 0
        both = ServerProcess((os.getpid(), child.pid)).cpu_seconds() or 0
        parent = ServerProcess((os.getpid(),)).cpu_seconds() or 0

    assert alone >= 0.29
    assert both == pytest.approx(parent, abs=0.1)


@contextmanager
def worker(code: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has said that it is there, and lives for the time of a block."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate(b"\n")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_the_time_of_a_process_includes_that_of_its_descendants() -> None:
    """What a child's child has worked is counted while it lives."""
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])"
    with worker(code) as child:
        seconds = ServerProcess((child.pid,)).cpu_seconds()

    assert seconds is not None
    assert seconds >= 0.29


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
    for _, request in requests(
        np.zeros((8, 8), np.float32), ("digits", "minilm", "repeat", "tiny_llm")
    ):
        message = json_format.ParseDict(request, pb.ModelInferRequest(), descriptor_pool=POOL)
        decoded = decode_request(message.SerializeToString(), 0)

        assert decoded.model_name == request["model_name"]
        assert all(isinstance(tensor, Tensor) for tensor in decoded.inputs)


def test_samples_that_are_none_are_refused(tmp_path: Path) -> None:
    """A file without images says so."""
    np.savez(tmp_path / "x.npz", other=np.zeros(1))

    with pytest.raises(CommandError, match="holds no images and labels"):
        read_samples(tmp_path / "x.npz")
