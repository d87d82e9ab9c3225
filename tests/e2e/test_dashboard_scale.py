"""The dashboard and the metrics with very many streams; figures are printed, and bounded loosely."""

import time

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.pages import IN_CHROMIUM, looking, names, rows
from tests.serving import serving, wait_ready

pytestmark = [*IN_CHROMIUM, pytest.mark.alone]


def timed(client, path, times=5):
    """Return a call's size in bytes and its median time in milliseconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        response = client.get(path)
        seconds.append(time.perf_counter() - began)
    return len(response.content), 1000 * sorted(seconds)[times // 2]


def create_many(client, first, last):
    """Create streams; return the milliseconds that one took."""
    began = time.perf_counter()
    for number in range(first, last):
        assert client.post("/v1/streams", json={"id": f"site-{number:05d}"}).status_code == 201
    return 1000 * (time.perf_counter() - began) / (last - first)


def first_rows(page: Page):
    """Open the overview; return the milliseconds to the first rows."""
    began = time.perf_counter()
    page.goto("/")
    expect(rows(page).first).to_be_visible(timeout=60_000)
    return 1000 * (time.perf_counter() - began)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_streams_stay_smooth_and_small(browser, tmp_path):
    settings = {"ACCLIMATE_MAX_STREAMS": "10000", "OMP_NUM_THREADS": "1"}
    with serving(tmp_path, environment=settings) as server, server.client() as client:
        wait_ready(server)
        print(f"\ncreating one of 1,000: {create_many(client, 0, 1000):.1f} ms")
        with looking(browser, server.url) as page:
            print(f"overview of 1,000: {first_rows(page):.0f} ms to the first rows")
            drawn = rows(page).count()
            before = names(page)
            page.mouse.wheel(0, 20_000)
            expect(page.locator("td.cell-id a", has_text=before[0])).to_have_count(0)
            after, drawn_after = names(page), rows(page).count()
        print(f"creating one of 10,000: {create_many(client, 1000, 10_000):.1f} ms")
        metrics_bytes, metrics_ms = timed(client, "/metrics")
        overview_bytes, overview_ms = timed(client, "/v1/overview")
        print(f"/metrics with 10,000: {metrics_bytes:,} bytes, {metrics_ms:.0f} ms (target 50)")
        print(f"/v1/overview with 10,000: {overview_bytes:,} bytes, {overview_ms:.0f} ms")
        with looking(browser, server.url) as page:
            opened_ms = first_rows(page)
            began = time.perf_counter()
            page.get_by_label("Filter streams").fill("site-0999")
            expect(page.locator(".shown")).to_have_text("10 of 10,000 streams")
            print(f"overview of 10,000: {opened_ms:.0f} ms, a filter {1000 * (time.perf_counter() - began):.0f} ms")
        server.process.kill()

    assert 0 < drawn < 100
    assert 0 < drawn_after < 100
    assert not set(before) & set(after)
    assert metrics_bytes < 200_000
    assert metrics_ms < 500
