"""The compiled world: what is frozen is frozen, and equality means that live state may be carried over."""

from __future__ import annotations

import dataclasses
import ssl

import pytest

from gateway.endpoints import Endpoint
from gateway.headers import Networks
from gateway.metrics import RouteMetrics
from gateway.server_settings import Listener, Names, ServerSettings
from gateway.snapshot import Route, UpstreamSettings


@pytest.mark.parametrize(
    "listener,text",
    [
        (Listener("127.0.0.1", 80), "127.0.0.1:80"),
        (Listener("", 80), ":80"),
        (Listener("::1", 80), "[::1]:80"),
        (Listener(path="/run/x"), "unix:/run/x"),
    ],
)
def test_a_listener_is_written_as_in_the_configuration(listener: Listener, text: str) -> None:
    """Messages name addresses as the operator wrote them."""
    assert str(listener) == text


@pytest.mark.parametrize(
    "value",
    [Names(), UpstreamSettings(), Route("a", RouteMetrics("a")), ServerSettings((), "gw", Networks())],
    ids=lambda value: type(value).__name__,
)
def test_settings_cannot_be_changed(value: object) -> None:
    """A request keeps its world to its last byte."""
    assert dataclasses.is_dataclass(value)
    name = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_connection_settings_are_compared_by_what_was_written() -> None:
    """Two TLS contexts of equal settings and files are equal, so that a reload keeps the connections."""
    first = UpstreamSettings(tls=ssl.create_default_context(), tls_fingerprint="a")
    second = UpstreamSettings(tls=ssl.create_default_context(), tls_fingerprint="a")

    assert first == second
    assert first != dataclasses.replace(second, tls_fingerprint="b")


def test_an_endpoint_starts_idle() -> None:
    """Only its load and its pool are live."""
    endpoint = Endpoint("http://a:1", host="a", port=1, path="", tls=False, weight=1, authority=b"a:1")

    assert endpoint.in_flight == 0
    with pytest.raises(AttributeError):
        endpoint.pool  # noqa: B018
