"""Targets, channel options and the service config of the client."""

import json

import pytest

from penstock.client.channel import TLS, addresses_of, channel_options, grpc_target


@pytest.mark.parametrize(
    "target", ["localhost:8001", "unix:/run/penstock.sock", "dns:///penstock:8001", "[::1]:8001"]
)
def test_one_address_is_left_to_grpc(target: str) -> None:
    """A single address is gRPC's own target and is not resolved by us."""
    assert grpc_target(addresses_of(target)) == target


@pytest.mark.parametrize(
    "target", ["10.0.0.1:8001, 10.0.0.2:9001", ["10.0.0.1:8001", "10.0.0.2:9001"]]
)
def test_several_addresses_become_one_target(target: str | list[str]) -> None:
    """Addresses with commas or in a sequence are one target over which calls go round."""
    assert grpc_target(addresses_of(target)) == "ipv4:10.0.0.1:8001,10.0.0.2:9001"


def test_ipv6_addresses_keep_their_brackets() -> None:
    """An IPv6 literal is written as gRPC's ipv6 scheme wants it."""
    assert grpc_target(["[::1]:1", "[::2]:2"]) == "ipv6:[::1]:1,[::2]:2"


def test_mixed_kinds_of_address_are_refused() -> None:
    """gRPC has no target that holds IPv4 and IPv6 literals at once."""
    with pytest.raises(ValueError, match="mix IPv4 and IPv6"):
        grpc_target(["10.0.0.1:1", "[::1]:2"])


@pytest.mark.parametrize("target", ["", " , ", []])
def test_an_empty_target_is_refused(target: str | list[str]) -> None:
    """A target that names nothing says what is expected."""
    with pytest.raises(ValueError, match="expected host:port"):
        addresses_of(target)


def test_an_address_needs_a_port_among_several() -> None:
    """Without a port there is nothing to connect to."""
    with pytest.raises(ValueError, match="no port"):
        grpc_target(["10.0.0.1:1", "10.0.0.2"])


def test_a_key_needs_its_certificate() -> None:
    """It would be left out in silence, and the server would not know who asks."""
    with pytest.raises(ValueError, match=r"private_key is 'k[.]pem', expected certificate_chain"):
        TLS(private_key="k.pem")


def test_no_message_is_limited() -> None:
    """gRPC's limit of 4 MB is lifted in both directions."""
    options = dict(channel_options(["localhost:1"]))

    assert options["grpc.max_receive_message_length"] == -1
    assert options["grpc.max_send_message_length"] == -1
    assert "grpc.service_config" not in options


@pytest.mark.parametrize("addresses", [["10.0.0.1:1", "10.0.0.2:2"], ["dns:///pods:8001"]])
def test_several_addresses_are_balanced_by_health(addresses: list[str]) -> None:
    """Calls go round the addresses whose health says SERVING."""
    options = dict(channel_options(addresses))

    config = json.loads(options["grpc.service_config"])

    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "inference.GRPCInferenceService"}
