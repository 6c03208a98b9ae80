"""What can be wrong with what the peer sends: with one stream, or with the whole connection."""


class ConnectionFault(Exception):
    """The connection cannot go on: GOAWAY with this code, then the end (RFC 9113, 5.4.1)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = int(code)
        self.text = text

    def __repr__(self) -> str:
        return f"<ConnectionFault {self.code}: {self.text}>"


class StreamFault(Exception):
    """One stream cannot go on: RST_STREAM with this code (RFC 9113, 5.4.2).

    `name` is the tally that counts it.
    """

    def __init__(self, stream_id: int, code: int, name: str = "stream_errors") -> None:
        super().__init__(f"stream {stream_id}: error {int(code)}")
        self.stream_id = stream_id
        self.code = int(code)
        self.name = name
