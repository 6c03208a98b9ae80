"""The parts of a server that its options ask for: transport, HTTP side, TLS, repository, cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.cache_config import CacheSettings
from penstock.config import ServerOptions
from penstock.http_side import HttpSide, require_http
from penstock.limits import default_inflight_bytes
from penstock.services import Services
from penstock.transport.addresses import listen_addresses
from penstock.transport.base import Method, Transport
from penstock.transport.tls import TlsFiles
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.calls import CallLog
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.response_cache import ResponseCache


def make_transport(options: ServerOptions, methods: Sequence[Method]) -> Transport:
    """The transport that the options name. Imports grpc, which takes a while, only if need be."""
    o = options
    common: dict[str, Any] = {
        "addresses": listen_addresses(o.grpc_address, o.grpc_port),
        "reuse_port": o.reuse_grpc_port,
        "tls": tls_files(o),
        "keepalive_time_ms": o.grpc_keepalive_time,
        "keepalive_timeout_ms": o.grpc_keepalive_timeout,
        "keepalive_permit_without_calls": o.grpc_keepalive_permit_without_calls,
        "max_pings_without_data": o.grpc_http2_max_pings_without_data,
        "min_recv_ping_interval_without_data_ms": o.grpc_http2_min_recv_ping_interval_without_data,
        "max_ping_strikes": o.grpc_http2_max_ping_strikes,
        "max_connection_idle_ms": o.grpc_max_connection_idle,
        "max_connection_age_ms": o.grpc_max_connection_age,
        "max_connection_age_grace_ms": o.grpc_max_connection_age_grace,
        "handshake_timeout_ms": o.grpc_handshake_timeout,
        "max_concurrent_streams": o.grpc_max_concurrent_streams,
        "max_concurrent_rpcs": o.grpc_max_concurrent_rpcs,
        "compression_level": o.grpc_infer_response_compression_level,
    }
    if o.transport == "http2":
        from penstock.transport.http2.options import Http2Options
        from penstock.transport.http2.server import Http2Transport

        more: dict[str, Any] = {
            "max_connections": o.grpc_max_connections,
            "stream_stall_s": o.stream_stall_secs,
            "max_arriving_bytes": o.max_inflight_bytes or default_inflight_bytes(),
        }
        return Http2Transport(methods, Http2Options(**common, **more))
    from penstock.transport.grpcio import GrpcioOptions, GrpcioTransport

    return GrpcioTransport(methods, GrpcioOptions(**common))


def make_http(
    options: ServerOptions,
    services: Services,
    core: InferenceCore,
    render: Callable[[], bytes],
) -> HttpSide | None:
    """The HTTP port, if the options ask for one. Imports its libraries only then.

    FailedPrecondition if they are not installed.
    """
    if not options.allow_http:
        return None
    require_http(options.allow_http)
    from penstock.rest.assembly import make_http_side

    return make_http_side(options, services, core, render if options.allow_metrics else None)


def tls_files(options: ServerOptions) -> TlsFiles | None:
    """What the options say of TLS; None: nothing is encrypted. InvalidArgument if files miss."""
    o = options
    if not (o.grpc_use_ssl or o.grpc_use_ssl_mutual):
        return None
    files = TlsFiles(o.grpc_server_cert, o.grpc_server_key, o.grpc_root_cert, o.grpc_use_ssl_mutual)
    files.check()
    return files


def repository_options(options: ServerOptions) -> RepositoryOptions:
    """What the options say of the repository."""
    if not options.model_repository:
        raise InvalidArgument(
            "no model repository: give --model-repository a directory of models, or of one model"
        )
    return RepositoryOptions(
        roots=tuple(Path(root) for root in options.model_repository),
        control_mode=ControlMode(options.model_control_mode),
        poll_seconds=options.repository_poll_secs,
        startup_models=options.load_model,
        load_threads=options.model_load_thread_count,
        load_retries=options.model_load_retry_count,
        model_name=options.model_name,
        model_config_name=options.model_config_name,
        namespaces=options.model_namespacing,
        drain_timeout_s=max(float(options.exit_timeout_secs), 1.0),
    )


def open_call_log(options: ServerOptions) -> CallLog | None:
    """Where requests to language models are recorded, if they are."""
    if not options.call_log:
        return None
    return CallLog(options.call_log, options.call_log_max_bytes, content=options.call_log_content)


def make_cache(settings: CacheSettings) -> ResponseCache | None:
    """The response cache that the settings ask for; None for none."""
    if not settings.size:
        return None
    ttl_ns = max(round(settings.ttl_s * 1e9), 1) if settings.ttl_s else None
    return ResponseCache(settings.size, ttl_ns)
