"""Every route of the application by every kind of caller: a new one fails here until it is listed."""

import asyncio
import hashlib
import hmac

import pytest

from service.api.keys import Keys
from service.app import create_app
from service.settings import Settings
from tests.bundles import FACTORY, torch_bundle

TABLE = """
GET    /                                                      open
HEAD   /                                                      open
GET    /dashboard/{path:path}                                 open
HEAD   /dashboard/{path:path}                                 open
GET    /docs                                                  read
HEAD   /docs                                                  read
GET    /openapi.json                                          read
HEAD   /openapi.json                                          read
GET    /metrics                                               read
GET    /v1/adapters                                           read
GET    /v1/signals                                            read
GET    /v1/events                                             read
GET    /v1/events/live                                        read
GET    /v1/models                                             read
GET    /v1/models/{model}                                     read
GET    /v1/overview                                           read
GET    /v1/overview/live                                      read
GET    /v1/session                                            open
POST   /v1/session                                            open
DELETE /v1/session                                            open
POST   /v1/snapshots                                          admin
GET    /v1/snapshots/{snapshot_id}                            read
DELETE /v1/snapshots/{snapshot_id}                            admin
GET    /v1/snapshots/{snapshot_id}/download                   read
GET    /v1/streams                                            read
POST   /v1/streams                                            admin
GET    /v1/streams/{stream_id}                                read
PATCH  /v1/streams/{stream_id}                                admin
DELETE /v1/streams/{stream_id}                                admin
POST   /v1/streams/{stream_id}/feedback                       admin
GET    /v1/streams/{stream_id}/history                        read
GET    /v1/streams/{stream_id}/history/live                   read
POST   /v1/streams/{stream_id}/reset                          admin
POST   /v1/streams/{stream_id}/restore                        admin
GET    /v1/streams/{stream_id}/snapshots                      read
POST   /v1/streams/{stream_id}/snapshots                      admin
GET    /v2                                                    infer
GET    /v2/health/live                                        open
GET    /v2/health/ready                                       open
GET    /v2/models/stats                                       infer
GET    /v2/models/{model}                                     infer
POST   /v2/models/{model}/infer                               infer
GET    /v2/models/{model}/ready                               infer
GET    /v2/models/{model}/stats                               infer
GET    /v2/models/{model}/versions/{version}                  infer
POST   /v2/models/{model}/versions/{version}/infer            infer
GET    /v2/models/{model}/versions/{version}/ready            infer
POST   /v2/repository/index                                   infer
HEAD   /metrics                                               read
GET    /v2/                                                   infer
HEAD   /v2/health/live                                        open
HEAD   /v2/health/ready                                       open
GET    /v2/models/{model}/config                              infer
GET    /v2/models/{model}/versions/{version}/config           infer
GET    /v2/models/{model}/versions/{version}/stats            infer
GET    /v2/systemsharedmemory/{rest:path}                     infer
POST   /v2/systemsharedmemory/{rest:path}                     infer
GET    /v2/cudasharedmemory/{rest:path}                       infer
POST   /v2/cudasharedmemory/{rest:path}                       infer
GET    /v2/trace/setting                                      infer
POST   /v2/trace/setting                                      infer
GET    /v2/models/{model}/trace/setting                       infer
POST   /v2/models/{model}/trace/setting                       infer
GET    /v2/models/{model}/versions/{version}/trace/setting    infer
POST   /v2/models/{model}/versions/{version}/trace/setting    infer
GET    /v2/logging                                            infer
POST   /v2/logging                                            infer
GET    /v2/repository/models/{model}/load                     infer
POST   /v2/repository/models/{model}/load                     infer
GET    /v2/repository/models/{model}/unload                   infer
POST   /v2/repository/models/{model}/unload                   infer
GET    /v2/models/{model}/generate                            infer
POST   /v2/models/{model}/generate                            infer
GET    /v2/models/{model}/generate_stream                     infer
POST   /v2/models/{model}/generate_stream                     infer
GET    /v2/models/{model}/versions/{version}/generate         infer
POST   /v2/models/{model}/versions/{version}/generate         infer
GET    /v2/models/{model}/versions/{version}/generate_stream  infer
POST   /v2/models/{model}/versions/{version}/generate_stream  infer
"""
ROUTES = [tuple(line.split()) for line in TABLE.strip().splitlines()]
WRITES = [(method, path) for method, path, _scope in ROUTES if method not in ("GET", "HEAD")]
KEYS = ("infer", "read", "admin")
"""Keys of one scope each, and named by it."""
LET_IN = {"open": KEYS, "read": ("read", "admin"), "infer": ("infer", "admin"), "admin": ("admin",)}


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("scopes")
    torch_bundle(made / "bundle")
    (made / "keys").write_text("\n".join(f"{digest(key)} {key}" for key in KEYS))
    return made


def app_of(folder, name, **settings):
    bundles, data = (folder / "bundle",), folder / name
    return create_app(Settings(bundles=bundles, data=data, threads=1, allow_factories=(FACTORY,), **settings))


@pytest.fixture(scope="module")
def open_app(folder):
    return app_of(folder, "open")


@pytest.fixture(scope="module")
def keyed_app(folder):
    return app_of(folder, "keyed", keys_file=folder / "keys")


def status_of(app, method, path, **headers):
    """The status of an answer, without waiting for the end of one that is live."""

    async def call():
        answered = asyncio.get_running_loop().create_future()

        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.start" and not answered.done():
                answered.set_result(message["status"])

        given = {"host": "127.0.0.1", **headers}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()],
            "scheme": "http", "http_version": "1.1", "root_path": "", "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 5000),
        }  # fmt: skip
        running = asyncio.ensure_future(app(scope, receive, send))
        status = await answered
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return status

    return asyncio.run(call())


def filled(path):
    return path.replace(":path", "").replace("{", "").replace("}", "")


def walked(routes, outer="", own=""):
    """Every method and path of the routes, and of the routers included in them, under the prefixes of both."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from walked(inner.routes, outer + own, inner.prefix)
        else:
            yield from ((method, outer + route.path) for method in route.methods)


def test_the_table_lists_every_route_of_the_application_and_no_other(open_app):
    listed, there = {(method, path) for method, path, _scope in ROUTES}, set(walked(open_app.routes))
    missing = sorted(f"{method:6} {path} SCOPE" for method, path in there - listed)

    assert not missing, f"add to TABLE in tests/service/api/test_scopes.py, with the scope that may call it: {missing}"
    assert listed <= there, "TABLE in tests/service/api/test_scopes.py lists routes that are gone"


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES)
def test_a_route_refuses_whom_the_table_does_not_let_in(keyed_app, method, path, scope):
    callers = {"nobody": {}, "unknown": {"x_api_key": "unknown"}, **{key: {"x_api_key": key} for key in KEYS}}
    statuses = {caller: status_of(keyed_app, method, filled(path), **key) for caller, key in callers.items()}

    strangers = {statuses["nobody"], statuses["unknown"]}
    assert strangers == {401} if scope != "open" else not strangers & {401, 403}
    for key in KEYS:
        assert not {401, 403} & {statuses[key]} if key in LET_IN[scope] else statuses[key] == 403


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_without_keys_no_write_is_taken_from_a_foreign_page_or_under_a_foreign_name(open_app, method, path):
    refused = [
        status_of(open_app, method, filled(path), origin="https://evil.example"),
        status_of(open_app, method, filled(path), origin="null"),
        status_of(open_app, method, filled(path), host="evil.example"),
    ]

    assert refused == [403, 403, 403]
    assert status_of(open_app, method, filled(path), origin="http://127.0.0.1") != 403


def test_digests_are_compared_at_equal_length_whatever_the_length_of_the_key(monkeypatch):
    lengths, compare = [], hmac.compare_digest

    def measured(known, given):
        lengths.append((len(known), len(given)))
        return compare(known, given)

    monkeypatch.setattr(hmac, "compare_digest", measured)
    keys = Keys({digest("a"): frozenset({"read"}), digest("b" * 500): frozenset({"admin"})}, {})

    assert (keys.granted("a"), keys.granted("b" * 500)) == ({"read"}, {"admin"})
    assert set(lengths) == {(64, 64)}
