"""Models that load and unload other models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.scope import Scope, current, services_of
from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.model_services import ModelServices
from penstock_runtime.repository.overrides import parse_load_parameters


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Load or reload a model, with this configuration (JSON) and these files (`file:1/model.py`) if
    there are any. Returns once it serves; TritonModelException says why it does not.
    """
    scope = current()
    services = services_of(scope, "load_model()")
    parameters: dict[str, bool | int | str | bytes] = {
        key if key.startswith("file:") else f"file:{key}": value
        for key, value in (files or {}).items()
    }
    if config:
        parameters["config"] = config
    with _told(), _in_turn(scope, services, model_name):
        overrides = parse_load_parameters(parameters)
        services.control.repository.load(model_name, overrides)


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Take a model out of service; TritonModelException says why that cannot be."""
    scope = current()
    services = services_of(scope, "unload_model()")
    with _told(), _in_turn(scope, services, model_name):
        services.control.repository.unload(model_name, unload_dependents)


def get_model_dir() -> str:
    """The folder of the version whose code this is."""
    host = current().host
    if host is None:
        raise TritonModelException("get_model_dir() needs a server, and there is none")
    return host.directory


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model serves, in this version or ("") at all."""
    services = services_of(current(), "is_model_ready()")
    try:
        model = services.dispatch.model(model_name, model_version)
    except PenstockError:
        return False
    return bool(getattr(model, "healthy", True))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PenstockError as error:
        raise TritonModelException(error.message) from error


@contextmanager
def _in_turn(scope: Scope, services: ModelServices, name: str) -> Iterator[None]:
    """Refuse what would wait for the load that it is a part of."""
    host = scope.host
    if host is None or not scope.loads:
        yield
        return
    if services.loads.begin(host.model, host, (name,)) is not None:
        raise Unavailable(
            f"model '{host.model}' cannot wait for model '{name}' while it is loaded: that one"
            " waits for it",
            reason="LOADS_GO_ROUND",
        )
    try:
        yield
    finally:
        services.loads.end(host.model, host, (name,))
