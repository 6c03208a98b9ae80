"""Restricted protocols: who gets past them, without a socket."""

import asyncio
import logging

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeShelf,
    Messages,
    Streaming,
    answered_quickly,
    echo_model,
    request_bytes,
    services_for,
)

from penstock.admission import Admission
from penstock.config import ServerOptions
from penstock.interceptors import SHUTTING_DOWN, Gate, Guard
from penstock.restrictions import GROUPS, read_restrictions
from penstock.rpc import TABLE, Category, Kind, Rpc
from penstock.services import Services
from penstock.transport.base import Method, Refusal
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import Status, Unavailable

SECRET = "hunter2 = it's:a, secret"
EVERYTHING = f"{','.join(GROUPS)}:admin-key={SECRET}"
HEADER = "triton-grpc-protocol-admin-key"
EXPECTED = f"This protocol is restricted, expecting header '{HEADER}'"
RESTRICTED = [rpc for rpc in TABLE if rpc.category is not Category.REFLECTION]


def restricted_services(*values: str) -> Services:
    """The handlers of a server with one model and these values of the flag."""
    return services_for(
        FakeShelf(echo_model()), ServerOptions(grpc_restricted_protocol=values or (EVERYTHING,))
    )


def method_of(services: Services, path: str) -> Method:
    return next(method for method in services.methods if method.path == path)


async def outcome(method: Method, call: FakeCall) -> Refusal | None:
    """The refusal of an empty request or stream, if it is refused."""
    try:
        if method.unary is not None:
            await method.unary(b"", call)
        else:
            assert method.stream is not None
            messages = Messages([b""], closed=True)
            streaming = Streaming(call, method.stream(aiter(messages), call))
            # A Watch that is let in tells the state and goes on.
            await asyncio.wait((streaming.task,), timeout=0.05)
            if streaming.task.done():
                streaming.task.result()
            await streaming.leave()
    except Refusal as refusal:
        return refusal
    return None


@pytest.mark.asyncio
@pytest.mark.parametrize("rpc", RESTRICTED, ids=lambda rpc: rpc.path)
async def test_every_row_of_the_table_asks_for_the_secret_of_its_group(rpc: Rpc) -> None:
    """Inference, probes, MLServer's aliases: whoever does not know it gets no further."""
    path = rpc.path
    services = restricted_services()
    wrong: tuple[dict[str, str], ...] = (
        {},
        {HEADER: ""},
        {HEADER: SECRET[:-1]},
        {HEADER: SECRET + " "},
        {HEADER: SECRET.upper()},
        {HEADER: "\udcff\ud800\u00e9"},
        {"triton-grpc-protocol-other": SECRET},
    )

    refusals = [await outcome(method_of(services, path), FakeCall(metadata=m)) for m in wrong]
    let_in = await outcome(method_of(services, path), FakeCall(metadata={HEADER: SECRET}))

    for refusal in refusals:
        assert refusal is not None
        assert (refusal.answer.status, refusal.answer.text) == (Status.UNAVAILABLE, EXPECTED)
    assert let_in is None or let_in.answer.text != EXPECTED
    services.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("group", GROUPS)
async def test_a_group_restricts_its_own_rows_and_no_others(group: str) -> None:
    """Whoever restricts the repository does not shut out inference."""
    services = restricted_services(f"{group}:admin-key={SECRET}")

    shut = set()
    for rpc in TABLE:
        refusal = await outcome(method_of(services, rpc.path), FakeCall())
        if refusal is not None and refusal.answer.text == EXPECTED:
            shut.add(rpc)

    assert shut == {rpc for rpc in TABLE if rpc.category is GROUPS[group]}
    assert shut
    services.close()


@pytest.mark.asyncio
async def test_the_quick_way_asks_as_well_and_leaves_nothing_behind() -> None:
    """A call that is turned away takes no memory, is not inside and reaches no model."""
    services = restricted_services(f"inference:admin-key={SECRET}")
    submit = method_of(services, "/inference.GRPCInferenceService/ModelInfer").submit
    assert submit is not None

    wrong: tuple[dict[str, str], ...] = ({}, {HEADER: "guess"})
    for metadata in wrong:
        with pytest.raises(Refusal) as refusal:
            await answered_quickly(submit, request_bytes(), FakeCall(metadata=metadata))
        assert (refusal.value.answer.status, refusal.value.answer.text) == (
            Status.UNAVAILABLE,
            EXPECTED,
        )
    reply = await answered_quickly(submit, request_bytes(), FakeCall(metadata={HEADER: SECRET}))

    assert reply
    assert (services.budget.used, services.gate.inflight) == (0, 0)
    services.close()


@pytest.mark.asyncio
async def test_without_restrictions_nothing_stands_before_a_handler() -> None:
    """The check is chosen at the start: the quick way is the bare method, as is the guarded one."""
    free, shut = services_for(FakeShelf(echo_model())), restricted_services("health:k=v")
    path = "/inference.GRPCInferenceService/ModelInfer"

    async def handler(_data: bytes, _call: object) -> bytes:
        return b""

    row = next(row for row in TABLE if row.path == path)
    guarded = Guard(Gate()).method(row, handler).unary

    for services in (free, shut):
        submit = method_of(services, path).submit
        assert getattr(submit, "__name__", "") == "submit"
        services.close()
    assert handler in [cell.cell_contents for cell in guarded.__closure__]  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_server_that_drains_says_so_on_every_way_in() -> None:
    """A caller without the secret learns no less than that it has to go elsewhere."""
    services = restricted_services()
    services.gate.close()
    infer = method_of(services, "/inference.GRPCInferenceService/ModelInfer")
    assert infer.submit is not None

    refusal = await outcome(infer, FakeCall())
    with pytest.raises(Refusal) as quick:
        await answered_quickly(infer.submit, request_bytes(), FakeCall())

    assert refusal is not None
    assert refusal.answer.text == quick.value.answer.text == SHUTTING_DOWN
    services.close()


@pytest.mark.asyncio
async def test_a_drain_goes_on_asking_for_the_secret() -> None:
    """Probes are answered while the server drains, to those who may ask."""
    services = restricted_services()
    services.gate.close()
    check = method_of(services, "/grpc.health.v1.Health/Check")

    refusal = await outcome(check, FakeCall())

    assert refusal is not None
    assert refusal.answer.text == EXPECTED
    assert await outcome(check, FakeCall(metadata={HEADER: SECRET})) is None
    services.close()


def test_a_refusal_tells_the_header_and_a_reason_and_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client can tell it from a server that is down."""
    [restriction] = read_restrictions((f"health:admin-key={SECRET}",)).values()

    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable, match=HEADER) as error:
        restriction.check({HEADER: "guess"})

    assert error.value.reason == "RESTRICTED_PROTOCOL"
    assert "hunter2" not in repr(error.value) + caplog.text
    assert "guess" not in repr(error.value) + caplog.text


def test_models_are_not_told_the_secret() -> None:
    """Forwarded metadata becomes a parameter that a model may log or answer."""
    admission = Admission(InferenceCore(FakeShelf()), ".*")

    assert admission.headers({HEADER: SECRET, "x-user": "u"}) == {"x-user": "u"}


def test_streams_are_rows_too() -> None:
    """Each kind of method is among those that the laws above went through."""
    assert {rpc.kind for rpc in RESTRICTED} == {Kind.UNARY, Kind.STREAM}
