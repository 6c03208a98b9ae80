"""A server tells of its models, its calls, itself and its machine in one scrape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.describe_instances import Instance
from penstock.metrics import metrics_options, server_metrics
from penstock.observer import CallObserver, rpc_metrics, trace_id
from penstock.rpc import INFERENCE_SERVICE, TABLE, Rpc
from penstock.transport.base import Metadata
from penstock.version import __version__
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.observability.access_log import AccessEntry, AccessLog
from penstock_runtime.observability.model_metrics import MetricsOptions
from penstock_runtime.observability.rpc_metrics import RpcMetrics
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.base import QueueStats
from penstock_runtime.scheduling.queue_report import QueueLevel, QueueReport


@dataclass
class FakeModel:
    """A loaded version."""

    statistics: ModelStatistics
    instances: tuple[Instance, ...] = ()

    def queue_stats(self) -> QueueStats:
        return QueueStats(2, 3, 0)

    @property
    def labels(self) -> Mapping[str, str]:
        return {"model": self.statistics.model, "version": str(self.statistics.version)}

    def queue_report(self) -> QueueReport:
        return QueueReport((QueueLevel(1, 2, 3, 4, 5),))


class FakeRepository:
    """One version that serves and one that does not."""

    def models(self) -> Sequence[FakeModel]:
        return [FakeModel(ModelStatistics("good", 2))]

    def index(self, ready_only: bool) -> Sequence[ModelIndexEntry]:
        return [
            ModelIndexEntry("good", "2", ModelState.READY),
            ModelIndexEntry("bad", "1", ModelState.UNAVAILABLE, "no weights"),
        ]


class FakeCall:
    """A call of a caller who is traced, after it was answered."""

    method = ""
    peer = "ipv4:10.1.2.3:50000"
    deadline_ns = None
    metadata: Mapping[str, str] = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}

    def __init__(self) -> None:
        self.request: InferRequest | None = InferRequest("m", (), id="r-1")
        self.response: InferResponse | None = InferResponse(
            "m", "3", timing=Timing(1000, 20, 300, 4, 8)
        )

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Nobody looks at it."""

    async def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def write_many(self, messages: Sequence[bytes]) -> None:
        """Nobody reads them."""

    def abort(self, error: PenstockError) -> None:
        """Nobody aborts it."""


INFER = next(r for r in TABLE if (r.service, r.name) == (INFERENCE_SERVICE, "ModelInfer"))
STREAM = next(r for r in TABLE if r.name == "ModelStreamInfer")


def scrape(metrics: RpcMetrics) -> dict[tuple[str, str], float]:
    """Value per (sample name, labels as text)."""
    text = server_metrics(FakeRepository(), [metrics.families]).render().decode()
    return {
        (s.name, ",".join(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def observe(rpc: Rpc, code: str, log: AccessLog) -> None:
    CallObserver(None, log).finished(rpc, FakeCall(), code, 5_000_000, 120, 80)


def test_one_scrape_tells_of_everything_there_is() -> None:
    """Models, readiness, process, machine and version are all there."""
    read = scrape(rpc_metrics())

    assert read["nv_inference_pending_request_count", "model=good,version=2"] == 2
    assert read["penstock_model_ready", "model=good,version=2"] == 1
    assert read["penstock_model_ready", "model=bad,version=1"] == 0
    assert read["penstock_build_info", f"version={__version__}"] == 1
    assert read["process_resident_memory_bytes", ""] > 0
    assert read["nv_cpu_memory_total_bytes", ""] > 0
    assert read["penstock_metrics_source_errors_total", ""] == 0


def test_every_call_of_the_table_is_counted_under_its_own_name() -> None:
    """Each row of the table is a series, and a call moves its own."""
    metrics = rpc_metrics()
    observer = CallObserver(metrics, AccessLog())

    for rpc in TABLE:
        observer.started(rpc, FakeCall())
        observer.finished(rpc, FakeCall(), "OK", 1_000_000, 10, 20)
    read = scrape(metrics)

    handled = {key[1]: v for key, v in read.items() if key[0] == "grpc_server_handled_total"}
    assert len(handled) == len(TABLE)
    assert set(handled.values()) == {1}
    assert any("grpc_method=Watch" in key and "grpc_type=server_stream" in key for key in handled)
    assert not any("unknown" in key for key in handled)


def test_a_unary_call_has_one_access_line_with_its_ids_sizes_and_times() -> None:
    """Who asked, what it cost, and where the time went."""
    entries: list[AccessEntry] = []

    observe(INFER, "OK", AccessLog(entries.append))

    [entry] = entries
    assert entry._replace(wall_ns=0) == AccessEntry(
        wall_ns=0,
        rpc="/inference.GRPCInferenceService/ModelInfer",
        status="OK",
        model="m",
        version="3",
        id="r-1",
        trace_id="ab" * 16,
        peer="10.1.2.3",
        request_bytes=120,
        response_bytes=80,
        batch_size=8,
        queue_ns=1000,
        compute_ns=324,
        total_ns=5_000_000,
    )


def test_a_stream_is_logged_by_its_session_alone() -> None:
    """The stream as a whole has no line beside those of its requests."""
    entries: list[AccessEntry] = []

    observe(STREAM, "OK", AccessLog(entries.append))

    assert entries == []


def test_a_call_that_was_refused_before_it_was_read_is_logged_all_the_same() -> None:
    """Without a request there is a line with what is known."""
    entries: list[AccessEntry] = []
    call = FakeCall()
    call.request = call.response = None

    CallObserver(None, AccessLog(entries.append, every=100)).finished(
        INFER, call, "INVALID_ARGUMENT", 1, 2, 0
    )

    assert [(e.status, e.model, e.batch_size) for e in entries] == [("INVALID_ARGUMENT", "", 0)]


def test_calls_are_observed_only_when_someone_wants_to_know() -> None:
    """With neither counts nor access log there is nothing to do."""
    assert not CallObserver(None, AccessLog()).needed
    assert CallObserver(rpc_metrics(), AccessLog()).needed
    assert CallObserver(None, AccessLog(print)).needed


@pytest.mark.parametrize("text", ["", "nonsense", "00-short-0-01", "-" * 5])
def test_a_traceparent_that_is_none_gives_no_trace(text: str) -> None:
    """Metadata is free text."""
    assert trace_id(text) == ""


def test_the_optional_families_are_chosen_by_flag() -> None:
    """--metrics-config in Triton's words, its errors of quantiles aside."""
    chosen = metrics_options(
        ["summary_latencies=true", "counter_latencies=false", "summary_quantiles=0.5:0.05,0.99:0.1"]
    )

    assert chosen == MetricsOptions(False, False, True, (0.5, 0.99))


@pytest.mark.parametrize("bad", ["summary_latencies", "summary=true", "summary_quantiles=2:0.1"])
def test_a_metrics_setting_that_is_none_is_refused(bad: str) -> None:
    """The flag is named, and what it takes."""
    with pytest.raises(InvalidArgument, match="--metrics-config"):
        metrics_options([bad])
