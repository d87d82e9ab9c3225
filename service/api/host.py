"""Checks that a request has exactly one well-formed Host."""

import re

from starlette.requests import Request

from service.errors import MalformedError

HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,32})?\])(?::[0-9]{1,5})?")


def check_host(request: Request) -> None:
    """Refuse a request whose host a proxy and this server might understand differently.

    Raises:
        MalformedError: If it has several Hosts, none although it is HTTP/1.1, or a malformed one.
    """
    hosts = request.headers.getlist("host")
    if len(hosts) > 1:
        raise MalformedError(f"the request has {len(hosts)} Host headers, expected one")
    if not hosts and request.scope["http_version"] != "1.0":
        raise MalformedError("the request has no Host header, expected one")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise MalformedError(f"Host is {hosts[0][:100]!r}, expected a name or an address, and a port")
