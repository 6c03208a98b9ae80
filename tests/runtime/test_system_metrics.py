"""Calls, process, machine and GPUs are told where they can be known, and left out where not."""

import threading
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.fake_nvml import FakeNvml

from penstock_runtime.observability.gpu_metrics import GpuMetrics, Nvml
from penstock_runtime.observability.metrics import Family, render
from penstock_runtime.observability.process_metrics import (
    CPU_INTERVAL_NS,
    MachineMetrics,
    build_family,
    process_families,
)
from penstock_runtime.observability.rpc_metrics import RpcMetrics

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


def values(families: list[Family]) -> dict[tuple[str, str], float]:
    """Value per (sample name, labels as text), as an independent reader sees them."""
    read = text_string_to_metric_families(render(families).decode())
    return {
        (s.name, ",".join(f"{k}={s.labels[k]}" for k in sorted(s.labels))): s.value
        for family in read
        for s in family.samples
    }


def rpc_metrics() -> RpcMetrics:
    return RpcMetrics({INFER: "unary", STREAM: "bidi_stream"})


def test_every_method_is_there_before_its_first_call() -> None:
    """The first call of a method is seen as a rise from zero."""
    read = values(rpc_metrics().families())

    stream = "grpc_method=ModelStreamInfer,grpc_service=inference.GRPCInferenceService"
    assert read["grpc_server_started_total", f"{stream},grpc_type=bidi_stream"] == 0
    assert read["grpc_server_handled_total", f"grpc_code=OK,{stream},grpc_type=bidi_stream"] == 0


def test_calls_are_counted_by_method_and_status() -> None:
    """Started, handled and handling time belong to the method that was called."""
    metrics = rpc_metrics()

    for code in ("OK", "OK", "UNAVAILABLE"):
        metrics.started(INFER)
        metrics.handled(INFER, code, 0.003)
    read = values(metrics.families())

    infer = "grpc_method=ModelInfer,grpc_service=inference.GRPCInferenceService,grpc_type=unary"
    assert read["grpc_server_started_total", infer] == 3
    assert read["grpc_server_handled_total", f"grpc_code=OK,{infer}"] == 2
    assert read["grpc_server_handled_total", f"grpc_code=UNAVAILABLE,{infer}"] == 1
    assert read["grpc_server_handling_seconds_count", infer] == 3
    assert read["grpc_server_handling_seconds_bucket", f"{infer},le=0.002"] == 0
    assert read["grpc_server_handling_seconds_bucket", f"{infer},le=0.005"] == 3


def test_callers_cannot_make_series() -> None:
    """Unknown methods and statuses share one name each."""
    metrics = rpc_metrics()
    before = len(values(metrics.families()))

    for index in range(100):
        metrics.started(f"/x/{index}")
        metrics.handled(f"/x/{index}", f"CODE{index}", 0.1)
    read = values(metrics.families())

    unknown = "grpc_method=unknown,grpc_service=unknown,grpc_type=unary"
    assert read["grpc_server_handled_total", f"grpc_code=UNKNOWN,{unknown}"] == 100
    assert len([key for key in read if "_bucket" not in key[0]]) == before + 5


def test_calls_of_many_threads_add_up() -> None:
    """No call is lost between threads."""
    metrics = rpc_metrics()

    def work() -> None:
        for _ in range(500):
            metrics.started(INFER)
            metrics.handled(INFER, "OK", 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    infer = "grpc_method=ModelInfer,grpc_service=inference.GRPCInferenceService,grpc_type=unary"
    assert values(metrics.families())["grpc_server_handled_total", f"grpc_code=OK,{infer}"] == 2000


def test_the_process_tells_its_own_figures() -> None:
    """On Linux the usual process families are there and plausible."""
    read = {name: value for (name, _), value in values(process_families()).items()}

    assert read["process_resident_memory_bytes"] > 1_000_000
    assert read["process_cpu_seconds_total"] > 0
    assert 0 < read["process_open_fds"] <= read["process_max_fds"]
    assert read["process_start_time_seconds"] > 1_500_000_000


def test_without_proc_there_are_no_figures_and_no_failure(tmp_path: Path) -> None:
    """A system without /proc is served in silence."""
    families = [*process_families(tmp_path), *MachineMetrics(tmp_path).families()]

    assert families == []


def test_a_command_with_brackets_and_blanks_does_not_shift_the_figures(tmp_path: Path) -> None:
    """The name of the command is free text in the middle of the line."""
    numbers = " ".join(str(field) for field in range(4, 45))
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "stat").write_text(f"1 (a) b (c) S {numbers}\n")

    read = {name: value for (name, _), value in values(process_families(tmp_path)).items()}

    assert read["process_threads"] == 20
    assert read["process_virtual_memory_bytes"] == 23


def machine(proc: Path, busy: int, idle: int) -> None:
    (proc / "stat").write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\nbtime 1\n")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")


def test_utilisation_is_that_between_two_scrapes(tmp_path: Path) -> None:
    """Three quarters busy since the last scrape is 0.75; memory is total less available."""
    now = [0]
    machine(tmp_path, busy=100, idle=100)
    metrics = MachineMetrics(tmp_path, clock_ns=lambda: now[0])
    machine(tmp_path, busy=175, idle=125)
    now[0] = CPU_INTERVAL_NS

    read = values(metrics.families())

    assert read == {
        ("nv_cpu_utilization", ""): 0.75,
        ("nv_cpu_memory_total_bytes", ""): 1_024_000,
        ("nv_cpu_memory_used_bytes", ""): 614_400,
    }


def test_a_second_scraper_does_not_shorten_the_first_ones_interval(tmp_path: Path) -> None:
    """Within a second the utilisation stays what it was."""
    now = [0]
    machine(tmp_path, busy=100, idle=100)
    metrics = MachineMetrics(tmp_path, clock_ns=lambda: now[0])
    machine(tmp_path, busy=200, idle=100)
    now[0] = CPU_INTERVAL_NS
    metrics.families()
    machine(tmp_path, busy=200, idle=900)
    now[0] += CPU_INTERVAL_NS - 1

    assert values(metrics.families())["nv_cpu_utilization", ""] == 1


def test_the_version_is_a_label() -> None:
    """What runs can be joined to every other series."""
    assert values([build_family("1.2.3")]) == {("penstock_build_info", "version=1.2.3"): 1}


def test_each_gpu_tells_what_it_can() -> None:
    """A figure that a GPU does not offer is missing for that GPU alone."""
    read = values(GpuMetrics(lambda: Nvml(FakeNvml())).families())

    assert read == {
        ("nv_gpu_utilization", "gpu_uuid=GPU-1"): 0.4,
        ("nv_gpu_utilization", "gpu_uuid=GPU-2"): 0.4,
        ("nv_gpu_memory_total_bytes", "gpu_uuid=GPU-1"): 1000,
        ("nv_gpu_memory_total_bytes", "gpu_uuid=GPU-2"): 1000,
        ("nv_gpu_memory_used_bytes", "gpu_uuid=GPU-1"): 300,
        ("nv_gpu_memory_used_bytes", "gpu_uuid=GPU-2"): 300,
        ("nv_gpu_power_usage", "gpu_uuid=GPU-1"): 70.5,
        ("nv_gpu_power_limit", "gpu_uuid=GPU-1"): 70.5,
        ("nv_energy_consumption_total", "gpu_uuid=GPU-1"): 70.5,
    }


def test_without_a_driver_there_are_no_gpu_families_and_one_attempt() -> None:
    """A machine without GPUs is asked once and tells nothing."""
    asked = []

    def load() -> None:
        asked.append(1)

    metrics = GpuMetrics(load)

    assert (metrics.families(), metrics.families()) == ([], [])
    assert asked == [1]
