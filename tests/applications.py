"""Applications in this process, called over ASGI as a client on this machine would."""

import asyncio
from contextlib import ExitStack, contextmanager

import httpx

from service.app import create_app
from service.settings import Settings
from tests.bundles import FACTORY
from tests.serving import infer_body

INFER = "/v2/models/reference/infer"


class Api:
    """Calls an application as a client on this machine would."""

    def __init__(self, app, runner, client):
        self.app, self._runner, self._client = app, runner, client

    def __call__(self, method, path, **settings):
        return self._runner.run(self._client.request(method, path, **settings))

    def together(self, *calls):
        """Send requests (method, path, settings) at the same time."""

        async def all_of_them():
            return await asyncio.gather(*(self._client.request(m, path, **settings) for m, path, settings in calls))

        return self._runner.run(all_of_them())

    def infer(self, x, stream=None, request_id=None, headers=None, **parameters):
        """Send a batch that must be answered; return the answer."""
        body = infer_body(x, stream, request_id, **parameters)
        response = self("POST", INFER, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    def create(self, **body):
        response = self("POST", "/v1/streams", json={"model": "reference", **body})
        assert response.status_code == 201, response.text
        return response.json()

    def stream(self, stream_id):
        return self("GET", f"/v1/streams/{stream_id}").json()

    def ids(self):
        return [stream["id"] for stream in self("GET", "/v1/streams?limit=1000").json()["items"]]

    def everything(self):
        """All that a refused request must leave as it is."""
        streams = self("GET", "/v1/streams?limit=1000").json()["items"]
        for stream in streams:
            stream.pop("durable_generation")  # is written behind the traffic
        return streams, [self("GET", f"/v1/streams/{stream['id']}/snapshots").json()["items"] for stream in streams]


@contextmanager
def application(folder, *bundles, **settings):
    """Run an application with its data in `folder` until the block ends."""
    settings = {"data": folder / "data", "threads": 1, "allow_factories": (FACTORY,), **settings}
    settings.setdefault("try_gradients", False)  # a trial takes seconds, for each network with code of its own
    app = create_app(Settings(bundles=bundles or (folder / "reference",), **settings))
    with asyncio.Runner() as runner, ExitStack() as undo:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        undo.callback(lambda: runner.run(lifespan.__aexit__(None, None, None)))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        undo.callback(lambda: runner.run(client.aclose()))
        yield Api(app, runner, client)


JSON = {"Content-Type": "application/json"}
OCTETS = {"Content-Type": "application/octet-stream"}
MAX_BODY = 300_000
"""Bytes that the bounded application takes."""


def facts(answer):
    return answer["parameters"]


def assert_error(response, status, said):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert isinstance(response.json()["error"], str)
    assert said in response.json()["error"]
    assert len(response.content) < 2000
    assert ("retry-after" in response.headers) == (status in (429, 503))
