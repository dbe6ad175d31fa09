"""Endpoints and the group they form: the live side of an upstream."""

from gateway.endpoints.endpoint import Endpoint
from gateway.endpoints.group import EndpointGroup, GroupSettings, introduce

__all__ = ["Endpoint", "EndpointGroup", "GroupSettings", "introduce"]
