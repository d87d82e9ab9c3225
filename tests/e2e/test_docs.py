"""The API's documentation at /docs: Swagger UI, shipped with the server, under the dashboard's policy."""

import pytest
from playwright.sync_api import expect

from service.api.routes.dashboard import POLICY
from tests.bundles import torch_bundle
from tests.e2e.pages import IN_CHROMIUM, looking
from tests.serving import serving, wait_ready

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    bundle = str(torch_bundle(folder / "bundle"))
    with serving(folder, "--bundle", bundle, environment={"ACCLIMATE_COMPILED": "false"}) as running:
        wait_ready(running)
        yield running


def test_the_documentation_shows_every_operation_and_calls_one_without_any_other_host(browser, server):
    with server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert client.get("/docs").headers["Content-Security-Policy"] == POLICY
    asked = []
    with looking(browser, server.url) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto("/docs")
        expect(page.locator(".opblock")).to_have_count(sum(map(len, paths.values())))
        live = page.locator(".opblock", has_text="/v2/health/live")
        live.locator(".opblock-summary-control").click()
        live.get_by_role("button", name="Try it out").click()
        live.get_by_role("button", name="Execute").click()
        expect(live.locator(".live-responses-table .response-col_status").last).to_contain_text("200")

    assert len(asked) >= 5
    assert [url for url in asked if not url.startswith((f"{server.url}/", "data:", f"blob:{server.url}"))] == []
