"""What is compressed on one side is the same on the other, and no bomb goes off."""

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.rest.compression import accepted, compress, decompress
from penstock.rest.problems import HttpProblem
from penstock_runtime.errors import InvalidArgument


@given(st.lists(st.binary(max_size=200), max_size=4), st.sampled_from(["gzip", "deflate"]))
def test_pieces_are_the_same_after_both_ways(pieces: list[bytes], encoding: str) -> None:
    """In either encoding, however the body is cut."""
    body = b"".join(compress(pieces, encoding))

    assert decompress(body, encoding, 1000) == b"".join(pieces)


def test_deflate_may_come_without_its_head() -> None:
    """Some clients take the word literally."""
    deflater = zlib.compressobj(wbits=-15)
    bare = deflater.compress(b"x" * 100) + deflater.flush()

    assert decompress(bare, "Deflate", 100) == b"x" * 100


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    """Not more is made than may be; the status is that of too much."""
    bomb = gzip.compress(bytes(50 << 20), mtime=0)
    tracemalloc.start()
    try:
        with pytest.raises(HttpProblem) as refused:
            decompress(bomb, "gzip", 1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (refused.value.code, refused.value.ends) == (413, True)
    assert peak < 8 << 20


BROKEN = {
    "nothing": b"",
    "noise": b"noise",
    "cut off": gzip.compress(b"x", mtime=0)[:-3],
    "more behind it": gzip.compress(b"x", mtime=0) + b"more",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_broken_data_is_refused(body: bytes) -> None:
    """Noise, what is cut off, what has more behind it."""
    with pytest.raises(InvalidArgument, match="gzip data"):
        decompress(body, "gzip", 100)


def test_another_encoding_is_not_supported() -> None:
    """And what is supported is said."""
    with pytest.raises(HttpProblem) as refused:
        decompress(b"", "br", 100)

    assert refused.value.code == 415
    assert refused.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("br", ""),
        ("*", "gzip"),
        ("gzip;q=0, *;q=0.1", "deflate"),
        ("identity, gzip;q=0", ""),
        ("gzip;q=nonsense", ""),
        (",,;q=,", ""),
    ],
)
def test_the_callers_wish_decides(header: str, encoding: str) -> None:
    """By weight; what is not offered counts for nothing."""
    assert accepted(header) == encoding
