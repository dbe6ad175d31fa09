"""Endpoints and the group they form: the live side of an upstream."""

from gateway.endpoints.endpoint import Endpoint
from gateway.endpoints.group import DEFAULT, EndpointGroup, GroupSettings, GroupWatcher, introduce

__all__ = ["DEFAULT", "Endpoint", "EndpointGroup", "GroupSettings", "GroupWatcher", "introduce"]
