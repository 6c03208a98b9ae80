"""Messages sent together are on the wire as if each had been sent alone."""

from hypothesis import given
from hypothesis import strategies as st
from tests.http2.core import asked, connected, prefixed, written

from penstock.transport.http2.frames import DATA
from penstock.transport.http2.sending import Message


def view(data: bytes) -> memoryview:
    """The same as a view."""
    return memoryview(data)


ALIKE = st.integers(0, 8).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size)))
PIECES = st.tuples(st.binary(max_size=4), st.binary(max_size=4))
ANY: st.SearchStrategy[Message] = st.one_of(
    st.binary(max_size=8),
    st.binary(min_size=1020, max_size=1030),
    st.binary(max_size=8).map(view),
    PIECES,
)


def whole(message: Message) -> bytes:
    """A message in one piece."""
    return b"".join(message) if type(message) is tuple else bytes(message)  # type: ignore[arg-type]


@given(ALIKE | st.lists(ANY))
def test_messages_sent_together_are_those_sent_alone(messages: list[Message]) -> None:
    """Of equal sizes or not, in pieces or not: prefix and message, in their order."""
    connection = connected()
    stream = asked(connection)

    taken = connection.send_messages(stream, messages)
    data = b"".join(frame.payload for frame in written(connection) if frame.kind == DATA)

    assert taken
    assert data == b"".join(prefixed(whole(message)) for message in messages)
