"""Endpoints and the group they form: the live side of an upstream."""

from gateway.endpoints.group import Endpoint, EndpointGroup, GroupWatcher, introduce
from gateway.endpoints.settings import DEFAULT, Affinity, GroupSettings, Sticky

__all__ = ["DEFAULT", "Affinity", "Endpoint", "EndpointGroup", "GroupSettings", "GroupWatcher", "Sticky", "introduce"]
