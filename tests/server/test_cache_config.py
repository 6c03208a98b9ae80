"""What the flags of the response cache mean, and what is said of those that mean nothing."""

import pytest

from penstock.cache_config import CacheSettings, cache_settings
from penstock.config_sources import read_options
from penstock.parts import make_cache
from penstock_runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, CacheSettings()),
        (["--cache-config=local,size=1000"], {}, CacheSettings(1000)),
        (["--cache-config", "local,size=1000,ttl=2.5"], {}, CacheSettings(1000, 2.5)),
        (["--cache-config=local,size=9", "--cache-config=local,ttl=3"], {}, CacheSettings(9, 3.0)),
        (["--response-cache-byte-size=77"], {}, CacheSettings(77)),
        (["--response-cache-byte-size=77", "--cache-config=local,ttl=1"], {}, CacheSettings(77, 1)),
        (["--cache-config=local,size=0"], {}, CacheSettings()),
        ([], {"PENSTOCK_CACHE_CONFIG": "local,size=5,ttl=1"}, CacheSettings(5, 1.0)),
    ],
)
def test_triton_flags_mean_what_they_mean_there(
    argv: list[str], environ: dict[str, str], expected: CacheSettings
) -> None:
    """However they are given, several parts are one cache; without any there is none."""
    options = read_options(argv, environ)

    found = cache_settings(options.cache_config, options.response_cache_byte_size)

    assert found == expected
    assert cache_settings(found.flags()) == (found if found.size else CacheSettings())


@pytest.mark.parametrize(
    ("settings", "byte_size", "said"),
    [
        (["redis,host=a"], 0, "no cache 'redis'"),
        (["local"], 0, "no size"),
        (["local,ttl=5"], 0, "no size"),
        (["local,size=many"], 0, "size='many'"),
        (["local,size=-1"], 0, "size='-1'"),
        (["local,size=1,ttl=0"], 0, "ttl='0'"),
        (["local,size=1,ttl=inf"], 0, "ttl='inf'"),
        (["local,size=1,ttl=nan"], 0, "ttl='nan'"),
        (["local,size=1,depth=2"], 0, "depth='2'"),
        (["local,size=1"], 1, "both give a size"),
    ],
)
def test_what_means_nothing_is_refused(settings: list[str], byte_size: int, said: str) -> None:
    """The error names the part, and what was expected."""
    with pytest.raises(InvalidArgument, match=said):
        cache_settings(settings, byte_size)


def test_there_is_a_cache_only_where_it_has_a_size() -> None:
    """Off unless asked for."""
    cache = make_cache(CacheSettings(1000, 1e-12))

    assert make_cache(CacheSettings(0, 5.0)) is None
    assert cache is not None
    assert cache.limit_bytes == 1000
