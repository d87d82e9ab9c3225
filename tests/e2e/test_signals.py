"""A monitor that is one new file shows on a stream's page, in a real browser against a real server."""

import pytest
from playwright.sync_api import expect

from tests.bundles import torch_bundle
from tests.conformance.test_monitors import NEW
from tests.e2e.pages import IN_CHROMIUM, looking, open_stream
from tests.serving import images, infer_body, serving, wait_ready

pytestmark = IN_CHROMIUM
WITH_IT = """
import sys
from service.monitoring import monitors
monitors.__path__.append({folder!r})
from service.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with one more monitor, and a stream that was sent seven images."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "new").mkdir()
    (folder / "new" / "images_seen.py").write_text(NEW)
    bundle = torch_bundle(folder / "bundle")
    python = ("-c", WITH_IT.format(folder=str(folder / "new")))
    with serving(folder, "--bundle", str(bundle), python=python) as running:
        wait_ready(running)
        with running.client() as client:
            for count in (4, 3):
                client.post("/v2/models/reference/infer", json=infer_body(images(count), "s")).raise_for_status()
        yield running


def test_a_signal_that_no_chart_draws_has_a_chart_with_its_label_meaning_and_value(browser, server):
    with looking(browser, server.url) as page:
        open_stream(page, "s")
        chart = page.locator(".charts > *", has=page.get_by_role("heading", name="Images seen"))
        expect(chart).to_be_visible()
        expect(chart).to_contain_text("Images so far.")
        expect(chart).to_contain_text("7")
        page.locator("summary", has_text="figures as a table").click()
        expect(page.get_by_role("columnheader", name="Images seen")).to_be_visible()
