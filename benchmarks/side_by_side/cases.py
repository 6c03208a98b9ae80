"""The loads that servers are compared under, and the floors: what ours must reach beside others."""

from dataclasses import dataclass

HTTP2 = "penstock http2"
IN_PLACE = "penstock in place"
GRPCIO = "penstock grpcio"
TRITON = "Triton"
CACHE = "Triton, cache hit"
CPP = "C++ gRPC async"
PEERS = (HTTP2, IN_PLACE, GRPCIO, TRITON, CACHE, CPP)


@dataclass(frozen=True, slots=True)
class Figure:
    """A field of a reading, and how it is called; `less` says that small ones are better."""

    field: str
    label: str
    less: bool = False


PER_S = Figure("per_s", "req/s")
PER_CPU_S = Figure("per_cpu_s", "req/cpu-s")
RESPONSES = Figure("responses_per_s", "responses/s")
P99 = Figure("p99_ms", "p99", less=True)


@dataclass(frozen=True, slots=True)
class Floor:
    """The figure of `ours` over that of `against` must reach `bound` (if less is better: at most).

    `above` says that reaching it is not enough.
    """

    figure: Figure
    bound: float
    against: str = TRITON
    ours: str = HTTP2
    above: bool = False

    def __str__(self) -> str:
        """As in: penstock http2 at least 15x Triton in req/cpu-s."""
        words = "at most" if self.figure.less else "above" if self.above else "at least"
        return f"{self.ours} {words} {self.bound:g}x {self.against} in {self.figure.label}"


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of FP32 requests of one shape; `responses` above 1 are streamed.

    `texts` sends so many texts of different lengths in turn instead. `fresh` gives each call an id,
    a deadline and a traceparent of its own; `idle` connections are open beside those of the load.
    """

    model: str
    shape: tuple[int, int]
    connections: int
    calls_each: int = 1
    responses: int = 1
    texts: int = 0
    fresh: bool = False
    secure: bool = False
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One load, by what it is judged, who takes part, and the floors."""

    name: str
    title: str
    load: Load
    figure: Figure
    peers: tuple[str, ...]
    floors: tuple[Floor, ...] = ()


_SMALL = (1, 16)
_ALONE = (HTTP2, TRITON, CPP)

CASES = (
    Case(
        "echo",
        "echo FP32[1,16], 32 in flight",
        Load("echo", _SMALL, 8, 4),
        PER_CPU_S,
        PEERS,
        (
            Floor(PER_CPU_S, 15),
            Floor(PER_CPU_S, 3, against=CACHE),
            Floor(PER_CPU_S, 1, against=CPP, above=True),
            Floor(PER_CPU_S, 0.6, ours=GRPCIO),
        ),
    ),
    Case(
        "one",
        "echo FP32[1,16], one in flight",
        Load("echo", _SMALL, 1),
        PER_CPU_S,
        (HTTP2, IN_PLACE, TRITON, CPP),
    ),
    Case(
        "fresh",
        "echo FP32[1,16], 32 in flight, fresh id, grpc-timeout and traceparent in each call",
        Load("echo", _SMALL, 8, 4, fresh=True),
        PER_CPU_S,
        _ALONE,
        (Floor(PER_CPU_S, 8),),
    ),
    Case(
        "large",
        "echo of 1 MiB, 8 in flight",
        Load("echo", (1, 262_144), 8),
        PER_S,
        _ALONE,
        (Floor(PER_S, 2),),
    ),
    Case(
        "mlp",
        "MLP 784-1024-1024-10, 128 in flight",
        Load("mlp", (1, 784), 8, 16),
        PER_S,
        (HTTP2, TRITON),
        (Floor(PER_S, 2.4), Floor(P99, 0.5)),
    ),
    Case(
        "embed",
        "MiniLM from text of 6 to 40 words, 32 in flight",
        Load("embed", (1, 1), 8, 4, texts=16),
        PER_S,
        (HTTP2, TRITON),
        (Floor(PER_S, 1.5),),
    ),
    Case(
        "stream1",
        "stream of 100 responses, 1 in flight",
        Load("stream100", _SMALL, 1, responses=100),
        RESPONSES,
        (HTTP2, TRITON),
        (Floor(RESPONSES, 30),),
    ),
    Case(
        "stream8",
        "stream of 100 responses, 8 in flight",
        Load("stream100", _SMALL, 8, responses=100),
        RESPONSES,
        (HTTP2, TRITON),
        (Floor(RESPONSES, 30),),
    ),
    Case(
        "connections",
        "echo FP32[1,16] over 128 connections",
        Load("echo", _SMALL, 128),
        PER_CPU_S,
        _ALONE,
    ),
    Case(
        "idle",
        "echo FP32[1,16], 32 in flight, beside 1,000 idle connections",
        Load("echo", _SMALL, 8, 4, idle=1000),
        PER_CPU_S,
        _ALONE,
    ),
    Case(
        "tls",
        "echo FP32[1,16], 32 in flight, over TLS",
        Load("echo", _SMALL, 8, 4, secure=True),
        PER_CPU_S,
        _ALONE,
    ),
)
