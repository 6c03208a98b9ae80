"""Probes and balancers learn the state at once and at every change."""

import asyncio

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeShelf,
    Messages,
    Streaming,
    echo_model,
    services_for,
)

from penstock.config import ServerOptions
from penstock.health import Health
from penstock_protos.health import HealthCheckRequest, HealthCheckResponse, HealthListResponse
from penstock_runtime.errors import NotFound, ResourceExhausted

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
SERVICE = "inference.GRPCInferenceService"


def health_of(shelf: FakeShelf, *, max_watchers: int = 8) -> Health:
    """The health service of a server with these models."""
    return services_for(shelf, ServerOptions(max_health_watchers=max_watchers)).health


async def check(health: Health, service: str) -> int:
    """What Check answers."""
    data = HealthCheckRequest(service=service).SerializeToString()
    return HealthCheckResponse.FromString(await health.health_check(data, FakeCall())).status


def watch(health: Health, service: str) -> Streaming:
    """A Watch call."""
    request = HealthCheckRequest(service=service).SerializeToString()
    call = FakeCall()
    return Streaming(call, health.health_watch(aiter(Messages([request], closed=True)), call))


async def told(watching: Streaming) -> int:
    """The next state that a Watch call tells."""
    return HealthCheckResponse.FromString(await watching.next()).status


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "service", ["", SERVICE, "readiness", "liveness", "model:echo", "model:echo/1"]
)
async def test_everything_serves_when_all_is_well(service: str) -> None:
    """Each name of a ready server is SERVING."""
    assert await check(health_of(FakeShelf(echo_model())), service) == SERVING


@pytest.mark.asyncio
@pytest.mark.parametrize("service", ["nobody", "model:nobody", "model:echo/2", "Model:echo"])
async def test_an_unknown_name_is_not_found(service: str) -> None:
    """Check refuses what nobody bears."""
    with pytest.raises(NotFound):
        await check(health_of(FakeShelf(echo_model())), service)


@pytest.mark.asyncio
async def test_readiness_follows_the_models_and_liveness_does_not() -> None:
    """A server that loads is alive and not ready."""
    shelf = FakeShelf(echo_model())
    shelf.is_ready = False
    health = health_of(shelf)

    states = [await check(health, name) for name in ("", SERVICE, "readiness", "liveness")]

    assert states == [NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING]


@pytest.mark.asyncio
async def test_a_dead_instance_shows() -> None:
    """A model that cannot execute serves nobody, and neither does its server."""
    model = echo_model()
    health = health_of(FakeShelf(model))
    model.healthy = False

    assert await check(health, "model:echo") == NOT_SERVING
    assert await check(health, "") == NOT_SERVING


@pytest.mark.asyncio
async def test_while_draining_only_liveness_serves() -> None:
    """Balancers go away, the kubelet stays calm."""
    health = health_of(FakeShelf(echo_model()))

    health.drain()

    states = [await check(health, name) for name in ("", "model:echo", "liveness")]
    assert states == [NOT_SERVING, NOT_SERVING, SERVING]


@pytest.mark.asyncio
async def test_the_list_has_every_name() -> None:
    """List tells the server's names and every model's."""
    health = health_of(FakeShelf(echo_model("a"), echo_model("b")))

    reply = HealthListResponse.FromString(await health.health_list(b"", FakeCall()))

    names = {"", SERVICE, "readiness", "liveness", "model:a", "model:b"}
    assert {name: r.status for name, r in reply.statuses.items()} == dict.fromkeys(names, SERVING)


@pytest.mark.asyncio
async def test_a_watch_tells_the_state_at_once_and_then_each_change() -> None:
    """One message at once, one per change, none without a change."""
    shelf = FakeShelf(echo_model())
    health = health_of(shelf)
    watching = watch(health, "readiness")

    first = await told(watching)
    waiting = asyncio.ensure_future(told(watching))
    health.refresh()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    unchanged = not waiting.done()
    shelf.is_ready = False
    health.refresh()
    second = await waiting
    await watching.leave()

    assert (first, unchanged, second) == (SERVING, True, NOT_SERVING)


@pytest.mark.asyncio
async def test_a_change_in_any_thread_reaches_the_watchers() -> None:
    """Models change state in threads of their own."""
    shelf = FakeShelf(echo_model())
    health = health_of(shelf)
    watching = watch(health, "")
    await told(watching)

    shelf.is_ready = False
    await asyncio.to_thread(health.refresh)

    assert await told(watching) == NOT_SERVING
    await watching.leave()


@pytest.mark.asyncio
async def test_watching_the_unknown_waits_for_it() -> None:
    """SERVICE_UNKNOWN is told and the call stays, for the model may come."""
    shelf = FakeShelf()
    health = health_of(shelf)
    watching = watch(health, "model:late")
    first = await told(watching)

    shelf.by_name["late"] = echo_model("late")
    health.refresh()

    assert (first, await told(watching)) == (SERVICE_UNKNOWN, SERVING)
    await watching.leave()


@pytest.mark.asyncio
async def test_watchers_are_bounded_and_leave_room_when_they_go() -> None:
    """One watcher too many is refused; one that ended counts no more."""
    health = health_of(FakeShelf(echo_model()), max_watchers=1)
    first = watch(health, "")
    await told(first)

    with pytest.raises(ResourceExhausted):
        await told(watch(health, ""))
    await first.leave()
    again = watch(health, "")

    assert await told(again) == SERVING
    await again.leave()


@pytest.mark.asyncio
async def test_watches_end_with_the_server_after_they_told_so() -> None:
    """The last word is NOT_SERVING, and then the call ends well."""
    health = health_of(FakeShelf(echo_model()))
    watching = watch(health, "")
    first = await told(watching)

    health.drain()
    health.close()

    assert [first, await told(watching)] == [SERVING, NOT_SERVING]
    with pytest.raises(StopAsyncIteration):
        await told(watching)


@pytest.mark.asyncio
async def test_an_instance_that_dies_is_noticed_between_two_beats() -> None:
    """No repository tells of it; whoever watches learns it all the same."""
    model = echo_model()
    health = health_of(FakeShelf(model))
    watching = watch(health, "model:echo")
    first = await told(watching)
    health.beat()

    model.healthy = False
    health.beat()

    assert [first, await told(watching)] == [SERVING, NOT_SERVING]
    await watching.leave()
