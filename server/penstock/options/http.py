"""Options of the HTTP port."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

from penstock.options.flag import option, port


@dataclass(frozen=True)
class HttpOptions:
    """The HTTP port."""

    allow_http: bool = option(
        False,
        "http",
        "Serve the protocol over HTTP too; `penstock serve` does where penstock[http] is there.",
    )
    http_port: int = port(8000, "http", "Port of the protocol over HTTP (0: any free one).")
    http_address: str = option(
        "0.0.0.0", "http", "Where to listen: host, host:port or unix:/path.", metavar="ADDRESS"
    )
    reuse_http_port: bool = option(
        False, "http", "Share the port with other processes (SO_REUSEPORT)."
    )
    http_max_input_size: int = option(
        64 << 20, "http", "Bytes of a request, after it is decompressed.", minimum=1
    )
    http_header_forward_pattern: str = option(
        "",
        "http",
        "Models see the headers whose names match this expression (any case).",
        metavar="REGEX",
    )
    http_restricted_api: tuple[str, ...] = option(
        (),
        "http",
        "These groups of calls (those of --grpc-restricted-protocol) answer only callers who send "
        "the header KEY: VALUE; may be repeated, in the environment separated by ;.",
        secret=True,
        metavar="GROUP[,GROUP]:KEY=VALUE",
        separator=";",
    )


def http_is_installed() -> bool:
    """Whether the libraries of the extra penstock[http] are there; nothing is imported."""
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn"))


def reason_for_no_http(tls: bool, closed: Collection[object]) -> str:
    """Why HTTP is not served where nothing is said of it; "" for no reason.

    `tls`: gRPC speaks it; `closed`: groups of calls that are restricted over gRPC only. What is
    guarded at one port must not stand open at another that nobody asked for.
    """
    if not http_is_installed():
        return "HTTP needs pip install 'penstock[http]'"
    if tls:
        return "HTTP speaks no TLS; --allow-http=true serves it all the same"
    if closed:
        return (
            "HTTP would not ask for the secrets of --grpc-restricted-protocol: restrict it by"
            " --http-restricted-api, or --allow-http=true serves it all the same"
        )
    return ""
