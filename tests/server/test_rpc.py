"""The table of RPCs is the service: complete, and each row handled by someone."""

import pytest

from penstock.rpc import SERVICES, TABLE, Category, Kind, bind
from penstock_protos.pool import POOL, services


def test_the_table_has_every_method_of_every_service_and_no_other() -> None:
    """What the protocol defines is answered, if only by UNIMPLEMENTED."""
    defined = {
        f"/{name}/{method.name}"
        for name in services()
        for method in POOL.FindServiceByName(name).methods
    }

    assert {rpc.path for rpc in TABLE} == defined
    assert len(TABLE) == len(defined)
    assert set(SERVICES) == set(services())


def test_a_row_streams_exactly_where_the_protocol_does() -> None:
    """One message each way is unary; everything else is a stream."""
    for rpc in TABLE:
        method = POOL.FindServiceByName(rpc.service).methods_by_name[rpc.name]
        streams = method.client_streaming or method.server_streaming
        assert (rpc.kind is Kind.STREAM) == streams, rpc.path


def test_only_inference_may_execute_models() -> None:
    """Categories are what access is granted by."""
    executing = {rpc.name for rpc in TABLE if rpc.category is Category.INFERENCE}

    assert executing == {"ModelInfer", "ModelStreamInfer"}


def test_a_row_that_nobody_handles_is_found_at_the_start() -> None:
    """Not when the first caller comes."""
    with pytest.raises(LookupError, match="server_live"):
        bind(object())
