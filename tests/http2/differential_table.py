"""Where ours is meant to answer otherwise than grpcio, and why."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """Cases (a pattern for their names) that ours is meant to answer otherwise: how, and why.

    `silent`: grpcio never answers, so that it is not asked. `tries`: it refuses at random, once in
    so many calls at the very least.
    """

    cases: str
    http: str
    status: int | None
    why: str
    silent: bool = False
    tries: int = 1


OK, INVALID, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
DIFFERENCES = (
    Difference(
        "content-type '(application/(grpc |grpc-web|grpcx|json)|text/html|)'",
        "415",
        INVALID,
        "gRPC says 415 to what is no gRPC; grpcio does not look",
    ),
    Difference("no content-type", "415", INVALID, "the same"),
    Difference(
        "method .*", "405", INTERNAL, "gRPC is POST; grpcio resets or says 200 with INTERNAL"
    ),
    Difference(
        "no te", "200", OK, "te only tells that a proxy understands trailers; grpcio resets"
    ),
    Difference("no authority", "200", OK, "HTTP/2 allows that; grpcio resets"),
    Difference("metadata x-a-bin b'AAEC,AwQ'", "200", OK, "gRPC allows lists of binary values"),
    Difference(
        "metadata of 15,000 bytes",
        "200",
        OK,
        "one limit, 16 KiB, and no chance: grpcio refuses at random from 8 KiB on",
        tries=30,
    ),
    Difference(
        "(an unknown|an empty) encoding.*|GZIP in capitals",
        "200",
        UNIMPLEMENTED,
        "what gRPC demands of a server that does not know an encoding",
    ),
    Difference("flag .*", "200", INTERNAL, "grpcio takes it for an empty message"),
    Difference(
        "unary: no (message|body)",
        "200",
        UNIMPLEMENTED,
        "gRPC's status for a wrong number of messages; grpcio never answers",
        silent=True,
    ),
    Difference("unary: two messages.*", "200", UNIMPLEMENTED, "the same; grpcio drops the second"),
    Difference(
        "unary: cut .*",
        "200",
        INTERNAL,
        "half a message is no message; grpcio never answers",
        silent=True,
    ),
    Difference(
        "unary: a message, then a piece|stream: (cut .*|a message, then a piece)",
        "200",
        INTERNAL,
        "half a message is an error; grpcio drops it",
    ),
    Difference(
        "unary: a length of 4 GiB",
        "200",
        EXHAUSTED,
        "refused by its length; grpcio waits for the rest",
        silent=True,
    ),
    Difference("stream: a length of 4 GiB", "200", EXHAUSTED, "the same"),
)
OWN_WORDS = re.compile(
    "Error parsing|Compression bit|Decompression failed|received metadata size|$"
)
"""Texts of grpcio's core that ours need not repeat: the status and that there is a text count."""


def meant(name: str) -> Difference | None:
    """The row of the table that this case belongs to."""
    return next((one for one in DIFFERENCES if re.fullmatch(one.cases, name)), None)
