"""The Host of a request: one, and of the form that a host has."""

import re

from starlette.requests import Request

from service.errors import MalformedError

HOST = re.compile(r"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,32})?\])(?::[0-9]{1,5})?")


def check_host(request: Request) -> None:
    """Refuse a request of which a proxy and this server could understand different hosts.

    Raises:
        MalformedError: It has several Hosts, none although it is HTTP/1.1, or one of another form.
    """
    hosts = request.headers.getlist("host")
    if len(hosts) > 1:
        raise MalformedError(f"the request has {len(hosts)} Host headers, expected one")
    if not hosts and request.scope["http_version"] != "1.0":
        raise MalformedError("the request has no Host header, expected one")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise MalformedError(f"Host is {hosts[0][:100]!r}, expected a name or an address, and a port")
