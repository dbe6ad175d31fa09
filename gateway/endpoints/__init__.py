"""Endpoints and the group they form: the live side of an upstream."""

from gateway.endpoints.group import Endpoint, EndpointGroup, GroupWatcher
from gateway.endpoints.introduce import introduce
from gateway.endpoints.settings import DEFAULT, GroupSettings, Steering, Sticky

__all__ = ["DEFAULT", "Endpoint", "EndpointGroup", "GroupSettings", "GroupWatcher", "Steering", "Sticky", "introduce"]
