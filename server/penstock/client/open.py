"""Which channel a client gets. What carries it is imported only when it is chosen."""

from penstock.client.base import AsyncChannel, Channel
from penstock.client.channel import Carrier, ChannelSettings


def open_channel(settings: ChannelSettings) -> Channel:
    """A channel for threads; nothing is sent before its first call."""
    if settings.carrier is Carrier.HTTP2:
        from penstock.client.http2_blocking import Http2Channel

        return Http2Channel(settings)
    from penstock.client.grpcio_channel import GrpcioChannel

    return GrpcioChannel(settings)


def open_async_channel(settings: ChannelSettings) -> AsyncChannel:
    """A channel for the tasks of one loop; nothing is opened before its first call."""
    if settings.carrier is Carrier.HTTP2:
        from penstock.client.http2_channel import AsyncHttp2Channel

        return AsyncHttp2Channel(settings)
    from penstock.client.grpcio_channel import AsyncGrpcioChannel

    return AsyncGrpcioChannel(settings)
