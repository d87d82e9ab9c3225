"""The dashboard in a real browser against a real server: looked at, clicked through, followed live."""

import hashlib
import re

import httpx
import pytest
from playwright.sync_api import expect

from service.client import Client
from tests.e2e.pages import (
    IN_CHROMIUM,
    NARROW,
    SCREENSHOTS,
    WIDE,
    act,
    fact,
    fits,
    looking,
    names,
    open_stream,
    rows,
    section,
    settle,
    tile,
)
from tests.e2e.traffic import CLASSES, POISONED, STREAMS, give_labels, send, send_drift, send_poison
from tests.serving import serving, wait_ready

pytestmark = IN_CHROMIUM
SETTINGS = {
    "ACCLIMATE_PROBE_EVERY": "3",
    "ACCLIMATE_SOURCE_CHECK_EVERY": "2",
    "ACCLIMATE_KEEP_MISFITS": "8",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the embedded model and six streams, each in its own way, that were sent drifting images."""
    folder = tmp_path_factory.mktemp("dashboard")
    with serving(folder, environment=SETTINGS) as running:
        wait_ready(running)
        with Client(running.url) as client:
            for stream in (*STREAMS, POISONED):
                client.call("POST", "/v1/streams", stream)
            send_drift(client)
            send_poison(client)
            give_labels(client)
        yield running


def of_stream(server, stream):
    with server.client() as client:
        return client.get(f"/v1/streams/{stream}").json()


def test_the_overview_shows_every_stream_filters_and_sorts(browser, server):
    with looking(browser, server.url) as page:
        page.goto("/")
        expect(rows(page)).to_have_count(6)
        first = names(page)[0]
        trouble = page.locator(".attention").inner_text()
        page.get_by_label("Filter streams").fill("tent adapt")
        expect(rows(page)).to_have_count(2)
        filtered = names(page)
        page.get_by_label("Filter streams").fill("no such thing")
        expect(page.locator(".shown")).to_have_text("No stream matches the filter.")
        page.get_by_label("Filter streams").fill("")
        page.get_by_role("button", name="Frozen 1").click()
        expect(rows(page)).to_have_count(1)
        frozen = names(page)
        page.get_by_role("button", name="All 6").click()
        expect(rows(page)).to_have_count(6)
        page.get_by_role("columnheader", name="Entropy", exact=True).get_by_role("button").click()
        expect(page.locator("th.cell-entropy")).to_have_attribute("aria-sort", "descending")
        settle(page)
        entropies = [float(text) for text in page.locator("td.cell-entropy").all_inner_texts()]
        page.get_by_role("columnheader", name="Stream", exact=True).get_by_role("button").click()
        expect(page.locator("th.cell-id")).to_have_attribute("aria-sort", "ascending")
        by_name = names(page)

    assert first == "camera-7"
    assert "Rolled back" in trouble
    assert not re.search(r"class \d", trouble)
    assert filtered == ["camera-7", "line-1"]
    assert frozen == ["dock-2"]
    assert entropies == sorted(entropies, reverse=True)
    assert by_name == ["camera-7", "dock-2", "gate-3", "lab-4", "line-1", "yard-9"]


def test_a_stream_is_shown_with_its_figures_charts_layers_classes_and_labels(browser, server):
    with looking(browser, server.url) as page:
        open_stream(page, "line-1")
        expect(page.locator(".uplot")).to_have_count(7)
        accuracy = page.locator("figure", has=page.get_by_role("heading", name="Accuracy")).locator(".sr-only")
        expect(accuracy).to_contain_text(re.compile(r"True: now \d+\.\d\s%"))
        gap = page.locator("figure", has=page.get_by_role("heading", name="Source gap")).locator(".sr-only")
        expect(gap).to_contain_text(re.compile(r"Source gap: now (no difference|\d.*\spoints (worse|better))"))
        expect(tile(page, "Entropy")).to_contain_text(re.compile(r"^\d\.\d{3}nats$"))
        expect(tile(page, "Source gap")).to_contain_text(re.compile("points (worse|better)|no difference"))
        expect(tile(page, "Latency")).to_contain_text("ms")
        expect(section(page, "Drift by layer").locator("p").first).to_contain_text(re.compile(r"layer\d|bn1"))
        painted = page.locator("canvas.heat").evaluate("heat => heat.width > 200 && heat.height > 100")
        classes = page.locator("table.classes tbody th").all_inner_texts()
        expect(page.locator(".misfits li")).to_have_count(8)
        misfits = page.locator(".misfits strong").all_inner_texts()
        sizes = page.locator(".misfits img").evaluate_all("images => images.map(image => image.naturalWidth)")
        page.get_by_text("figures as a table").click()
        expect(page.get_by_role("region", name="Figures as a table").locator("tbody tr")).to_have_count(9)
        open_stream(page, "yard-9")
        expect(page.get_by_role("heading", name="Why this pipeline")).to_be_visible()
        open_stream(page, "camera-7")
        expect(page.locator(".title-badge")).to_have_text("Guarded")
        expect(page.locator(".advice")).to_contain_text("Rolled back: ")
        expect(page.locator(".event[data-tone=bad]")).to_contain_text("of the answers")

    assert painted
    assert classes == list(CLASSES)
    assert set(misfits) <= set(CLASSES)
    assert set(sizes) == {28}


def test_a_guard_that_acted_a_moment_ago_shows(server):
    with server.client() as client:
        events = client.get("/v1/events", params={"stream": "camera-7"}).json()["items"]
        rows = {row["id"]: row for row in client.get("/v1/overview").json()["streams"]}

    kinds = [event["kind"] for event in events]
    assert "guard" in kinds
    assert rows["camera-7"]["badge"] == "guarded"


def test_history_tells_only_what_is_new_and_everything_to_a_cursor_of_an_earlier_server(server):
    with server.client() as client:

        def history(since):
            return client.get("/v1/streams/lab-4/history", params={"since": since}).json()

        whole = history(0)
        newest, later, foreign = history(whole["next"] - 1), history(whole["next"]), history(10**9)

    assert len(whole["points"]) == whole["next"] == 7
    assert (len(newest["points"]), len(newest["misfits"])) == (1, 1)
    assert (later["points"], later["misfits"], later["layers"]["times"]) == ([], [], [])
    assert len(later["events"]) < len(whole["events"])
    assert foreign == whole


def test_the_page_follows_new_requests_without_a_reload(browser, server):
    with looking(browser, server.url) as page:
        page.goto("/")
        row = rows(page).filter(has_text="gate-3")
        before = of_stream(server, "gate-3")["generation"]
        expect(row.locator("td.cell-generation")).to_have_text(str(before))
        send(server, "gate-3")
        expect(row.locator("td.cell-generation")).not_to_have_text(str(before))
        expect(row.locator("td.cell-last_used")).to_have_text(re.compile("just now|[5-9] s ago"))
        send(server, "newcomer")
        expect(rows(page).filter(has_text="newcomer")).to_have_count(1)
        open_stream(page, "gate-3")
        generation = of_stream(server, "gate-3")["generation"]
        expect(fact(page, "Generation")).to_have_text(str(generation))
        summary = page.locator("figure", has=page.get_by_role("heading", name="Entropy")).locator(".sr-only")
        told = summary.inner_text()
        send(server, "gate-3", 2)
        expect(summary).not_to_have_text(told)
        expect(fact(page, "Generation")).to_have_text(str(of_stream(server, "gate-3")["generation"]))
        assert page.evaluate("performance.getEntriesByType('navigation').length") == 1
    with server.client() as client:
        client.delete("/v1/streams/newcomer")


def test_snapshot_reset_and_restore_say_what_is_lost_and_do_it(browser, server):
    steps = of_stream(server, "line-1")["steps"]
    with looking(browser, server.url) as page:
        open_stream(page, "line-1")
        dialog = act(page, "Take a snapshot")
        dialog.get_by_label("Name").fill("before")
        dialog.get_by_label("Note").fill("<b>as it was</b>")
        dialog.get_by_role("button", name="Take the snapshot").click()
        kept = page.locator("table.snapshots tbody tr", has_text="before")
        expect(kept).to_contain_text("<b>as it was</b>")
        before = of_stream(server, "line-1")

        dialog = act(page, "Reset…")
        expect(dialog).to_contain_text(f"Reset forgets {steps} learning steps of line-1")
        expect(dialog).to_contain_text("Last snapshot: before, at this generation.")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        unchanged = of_stream(server, "line-1")
        act(page, "Reset…").get_by_role("button", name="Reset the stream").click()
        expect(page.locator(".toast").last).to_contain_text("line-1 was reset")
        expect(fact(page, "Learning steps")).to_have_text("0")
        expect(fact(page, "Generation")).to_have_text(str(before["generation"] + 1))
        expect(page.locator(".event").first).to_contain_text("Reset")
        reset = of_stream(server, "line-1")

        kept.get_by_role("button", name="Restore").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("forgets nothing")
        dialog.get_by_role("button", name="Restore", exact=True).click()
        expect(fact(page, "Learning steps")).to_have_text(str(steps))
        expect(page.locator(".event").first).to_contain_text("Restored")
        restored = of_stream(server, "line-1")

        kept.get_by_role("button", name="Delete").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("It is the only snapshot of this stream.")
        dialog.get_by_role("button", name="Delete the snapshot").click()
        expect(kept).to_have_count(0)

    assert (unchanged["generation"], unchanged["steps"]) == (before["generation"], steps)
    assert (reset["generation"], reset["steps"]) == (before["generation"] + 1, 0)
    assert (restored["generation"], restored["steps"]) == (before["generation"] + 2, steps)


def test_mode_and_adapter_change_a_wrong_adapter_is_refused_in_words_and_an_ended_stream_is_gone(browser, server):
    send(server, "short-lived", 2)
    with looking(browser, server.url) as page:
        open_stream(page, "short-lived")
        dialog = act(page, "Mode…")
        dialog.get_by_text("frozen", exact=True).click()
        dialog.get_by_role("button", name="Set the mode").click()
        expect(page.locator(".title-badge")).to_have_text("Frozen")
        expect(fact(page, "Mode")).to_have_text("frozen")
        frozen = of_stream(server, "short-lived")["mode"]
    with looking(browser, server.url) as page:
        open_stream(page, "short-lived")
        dialog = act(page, "Adapter…")
        dialog.get_by_label("Spec").fill("unmix_tns+eata")
        expect(dialog.locator(".parts li")).to_have_count(2)
        dialog.get_by_role("button", name="Change the adapter").click()
        expect(page.locator(".lead")).to_contain_text("adapted by unmix_tns+eata")
        changed = of_stream(server, "short-lived")
        dialog = act(page, "End…")
        expect(dialog).to_contain_text("Its history is deleted too.")
        dialog.get_by_role("button", name="End the stream").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Streams")
        expect(rows(page).filter(has_text="short-lived")).to_have_count(0)
    with server.client() as client:
        gone = client.get("/v1/streams/short-lived").status_code

    assert frozen == "frozen"
    assert (changed["adapter"], changed["steps"]) == ("unmix_tns+eata", 0)
    assert gone == 404


def test_a_refusal_is_told_in_the_servers_words(browser, server):
    with looking(browser, server.url, refused=422) as page:
        open_stream(page, "lab-4")
        dialog = act(page, "Adapter…")
        dialog.get_by_label("Spec").fill("batch+tnet")
        dialog.get_by_role("button", name="Change the adapter").click()
        expect(dialog.get_by_role("alert")).to_contain_text("tnet")
        words = dialog.get_by_role("alert").inner_text()

    assert "there are" in words
    assert of_stream(server, "lab-4")["adapter"] == "ema+tent"


def test_events_come_live_and_are_filtered(browser, server):
    with looking(browser, server.url) as page:
        page.goto("/#/events")
        expect(page.locator(".event").first).to_be_visible()
        before = page.locator(".event").count()
        with server.client() as client:
            client.post("/v1/streams/yard-9/reset", json={})
        expect(page.locator(".event")).to_have_count(before + 1)
        expect(page.locator(".event").first).to_contain_text("yard-9")
        page.get_by_label("Kind").select_option("guard")
        expect(page.locator(".event").first).to_contain_text("camera-7")
        kinds = set(page.locator(".event-kind").all_inner_texts())
        page.get_by_label("Kind").select_option("")
        page.get_by_label("Filter by stream").fill("dock")
        expect(page.locator(".event").first).to_contain_text("dock-2")
        streams = set(page.locator(".event-body a").all_inner_texts())

    assert kinds == {"Guard"}
    assert streams == {"dock-2"}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_page_and_dialog_fits_and_is_kept_as_a_picture(browser, server, size, theme):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    overflowing = []
    with server.client() as client:
        client.post("/v1/streams/gate-3/snapshots", json={"note": "while it does well"})
    with looking(browser, server.url, size, theme) as page:

        def keep(name, whole):
            page.screenshot(path=SCREENSHOTS / f"{name}-{size[0]}-{theme}.png", full_page=whole)
            if not fits(page):
                overflowing.append(name)

        page.goto("/")
        expect(rows(page).first).to_be_visible()
        expect(page.locator("#connection")).to_have_text("Live")
        keep("overview", whole=True)
        page.goto("/#/events")
        expect(page.locator(".event").first).to_be_visible()
        keep("events", whole=False)
        open_stream(page, "camera-7")
        expect(page.locator(".uplot").first).to_be_visible()
        keep("stream", whole=True)
        clipped = page.locator("table.classes td:last-child").evaluate_all(
            "cells => cells.filter(cell => cell.scrollWidth > cell.clientWidth).length"
        )
        open_stream(page, "gate-3")
        for button in ("Take a snapshot", "Restore…", "Mode…", "Adapter…", "Guard…", "Reset…", "End…"):
            dialog = act(page, button)
            keep(f"dialog-{button.split()[0].strip('…').lower()}", whole=False)
            page.keyboard.press("Escape")
            expect(dialog).to_have_count(0)

    assert overflowing == []
    assert clipped == 0


def test_a_key_opens_the_page_and_signing_out_closes_it(browser, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(b'open sesame').hexdigest()} admin,infer operator\n")
    keys.chmod(0o600)
    with serving(tmp_path, environment={**SETTINGS, "ACCLIMATE_KEYS_FILE": str(keys)}) as locked:
        wait_ready(locked)
        with httpx.Client(base_url=locked.url, headers={"X-API-Key": "open sesame"}) as client:
            client.post("/v1/streams", json={"id": "behind-a-key"})
        with looking(browser, locked.url, refused=401) as page:
            page.goto("/")
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("Key").fill("open barley")
            dialog.get_by_role("button", name="Sign in").click()
            expect(dialog.get_by_role("alert")).to_have_text("The server does not know this key.")
            dialog.get_by_label("Key").fill("open sesame")
            dialog.get_by_role("button", name="Sign in").click()
            expect(rows(page).filter(has_text="behind-a-key")).to_have_count(1)
            readable = page.evaluate("document.cookie + JSON.stringify(localStorage)")
            open_stream(page, "behind-a-key")
            act(page, "Reset…").get_by_role("button", name="Reset the stream").click()
            expect(fact(page, "Generation")).to_have_text("1")
            page.reload()
            expect(page.locator(".action-bar")).to_be_visible()
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_role("dialog")).to_contain_text("This server needs a key.")
            expect(page.locator(".action-bar")).to_be_hidden()
            session = page.request.get("/v1/overview").status

    assert "sesame" not in readable
    assert session == 401
