"""Streams in trouble, how far back the charts reach, and what a key may not do, in a real browser."""

import hashlib
import re
import time
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from service.client import Client
from service.monitoring.history import History
from service.storage.history_files import Histories
from tests.dying import dying
from tests.e2e.pages import IN_CHROMIUM, WIDE, fact, keep, looking, open_stream, rows, section
from tests.e2e.traffic import stored
from tests.serving import serving, wait_ready

pytestmark = IN_CHROMIUM
ADMIN, READER = "open sesame", "look through the keyhole"
FRAMES = 80
READ_PIXELS = """canvas => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  return Array.from({ length: width * height }, (_, i) => [
    i % width, Math.floor(i / width), data[4 * i], data[4 * i + 1], data[4 * i + 2],
  ]);
}"""
HELD, STUCK, WELL = "cam-held", "cam-stuck", "cam-well"
TWO_HOURS = 7200


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with keys and three streams: held back, suspected of harm, and well for two hours."""
    folder = tmp_path_factory.mktemp("trouble")
    keys = folder / "keys"
    lines = [(ADMIN, "admin,infer operator"), (READER, "read reader")]
    keys.write_text("".join(f"{hashlib.sha256(key.encode()).hexdigest()} {said}\n" for key, said in lines))
    keys.chmod(0o600)
    settings = {
        "ACCLIMATE_KEYS_FILE": str(keys),
        "ACCLIMATE_SOURCE_CHECK_EVERY": "1",
        "ACCLIMATE_PROBE_EVERY": "0",
        "OMP_NUM_THREADS": "1",
    }
    with serving(folder, environment=settings) as running:
        wait_ready(running)
        with Client(running.url, ADMIN) as client:
            for stream in (HELD, STUCK, WELL):
                client.create({"id": stream})
            created = client.stream(WELL).created
    for _ in range(2):
        dying(folder / "data" / "steps", HELD)
    keep_old_history(folder / "data" / "histories", WELL, created)
    with serving(folder, environment=settings) as running:
        wait_ready(running)
        with Client(running.url, ADMIN) as client:
            stick(client)
            client.infer("fashion", "input", stored()[0][:16], WELL)
        yield running


def keep_old_history(folder, stream, created):
    """Keep the history of a stream that answered two hours ago."""
    history = History()
    history.add(time.time() - TWO_HOURS, 1, 16, {"entropy": 0.3})
    Histories(folder).save([SimpleNamespace(id=stream, created=created, history=history)])


def stick(client):
    """Send one image again and again, as a camera does that is stuck, until harm is suspected."""
    images, _ = stored()
    for start in range(0, 64, 16):
        client.infer("fashion", "input", images[start : start + 16], STUCK)
    for _ in range(FRAMES):
        client.infer("fashion", "input", images[5:6], STUCK)
        if badges(client)[STUCK] == "suspected":
            return
    raise AssertionError("no harm was suspected of the stuck camera")


def badges(client):
    return {row.id: row.badge for row in client.overview()}


def sign_in(page, key):
    page.goto("/")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key").fill(key)
    dialog.get_by_role("button", name="Sign in").click()
    expect(rows(page)).to_have_count(3)


def total(page, title):
    return page.locator(".total", has=page.locator("dt", has_text=re.compile(f"^{title}$")))


def changing(page):
    """The buttons of a stream's page that change it."""
    return page.locator(".action-bar button, .advice button, [aria-labelledby=snapshots-title] button")


def test_suspected_and_held_streams_are_red_in_trouble_and_counted(browser, server):
    with looking(browser, server.url, refused=401) as page:
        sign_in(page, ADMIN)
        trouble = total(page, "In trouble")
        expect(trouble.locator("dd > span")).to_have_text("2")
        expect(trouble).to_have_attribute("data-tone", "bad")
        expect(page.get_by_role("heading", name="2 streams are in trouble")).to_be_visible()
        expect(page).to_have_title(re.compile(r"^\(2\) "))
        expect(page.locator("#nav-streams")).to_contain_text("2 in trouble")
        cards = page.locator(".attention-card")
        expect(cards).to_have_count(2)
        expect(cards.filter(has_text=HELD)).to_contain_text("Its step ended the process 2 times")
        expect(cards.filter(has_text=STUCK)).to_contain_text(re.compile("accuracy|agreement|contradicts"))
        for stream, word in ((HELD, "Held back"), (STUCK, "Harm suspected")):
            badge = rows(page).filter(has_text=stream).locator(".badge")
            expect(badge).to_have_text(word)
            bad = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bad').trim()")
            expect(badge).to_have_css("background-color", rgb(bad))
        page.get_by_role("button", name="Harm suspected 1").click()
        expect(rows(page)).to_have_count(1)
        page.get_by_role("button", name="Harm suspected 1").click()
        open_stream(page, STUCK)
        expect(page.locator(".title-badge")).to_have_text("Harm suspected")
        expect(page.locator(".advice h2")).to_have_text("This stream seems to answer worse than its source model")
        expect(page.locator(".event-kind").filter(has_text="Suspected")).to_have_count(1)


def rgb(colour):
    """Return a colour #rrggbb as a browser computes it."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return f"rgb({red}, {green}, {blue})"


def test_ranges_that_nothing_is_old_enough_for_are_disabled(browser, server):
    with looking(browser, server.url, refused=401) as page:
        sign_in(page, ADMIN)
        ranges = page.get_by_role("group", name="Time shown").get_by_role("button")
        open_stream(page, WELL)
        expect(ranges).to_have_text(["15 min", "1 h", "6 h", "1 day", "14 days", re.compile(r"^All \(2 h")])
        well = [button.is_enabled() for button in ranges.all()]
        why = ranges.nth(3).get_attribute("title")
        open_stream(page, STUCK)
        expect(ranges.last).to_have_text(re.compile(r"^All \(\d+ s"))
        stuck = [button.is_enabled() for button in ranges.all()]

    assert well == [True, True, True, False, False, True]
    assert why.startswith("Nothing is older than 2 h")
    assert stuck == [True, False, False, False, False, True]


def test_a_drift_covers_no_mark_of_a_guard_that_acted_just_before_it(browser, server):
    def with_guard_and_drift(route):
        told = route.fetch().json()
        at = told["points"][-1][told["columns"].index("time")] - TWO_HOURS / 2
        told["events"] = [
            {
                "id": 10**6 + number, "time": at + number, "kind": kind, "stream": WELL, "model": "fashion",
                "action": "", "reason": "so it was", "figures": {},
            }
            for number, kind in enumerate(("guard", "drift"))
        ]  # fmt: skip
        route.fulfill(json=told)

    with looking(browser, server.url, refused=401) as page:
        sign_in(page, ADMIN)
        page.route(f"**/{WELL}/history", with_guard_and_drift)
        open_stream(page, WELL)
        expect(section(page, "Events").locator(".event")).to_have_count(2)
        canvas = page.locator("figure", has=page.get_by_role("heading", name="Entropy")).locator("canvas")
        pixels = canvas.evaluate(READ_PIXELS)
        bad = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--bad').trim()")

    red = list(bytes.fromhex(bad.removeprefix("#")))
    marked = [(x, y) for x, y, *colour in pixels if colour == red]
    left, right = min(x for x, _ in marked), max(x for x, _ in marked)
    top, bottom = min(y for _, y in marked), max(y for _, y in marked)
    assert (right - left + 1, bottom - top + 1) == (8, 8)
    assert len(marked) == 64


def test_a_key_that_may_only_read_is_offered_no_change(browser, server):
    with looking(browser, server.url, refused=401) as page:
        sign_in(page, READER)
        open_stream(page, STUCK)
        expect(page.locator(".advice button").first).to_be_visible()
        for button in changing(page).all():
            expect(button).to_be_disabled()
            expect(button).to_have_attribute("title", re.compile("^Your key cannot change streams"))
        offered = changing(page).count()
        expect(page.get_by_role("button", name="15 min")).to_be_enabled()
    with looking(browser, server.url, refused=401) as page:
        sign_in(page, ADMIN)
        open_stream(page, STUCK)
        expect(page.locator(".advice button").first).to_be_enabled()
        expect(changing(page)).to_have_count(offered)
        disabled = [button.inner_text() for button in changing(page).all() if button.is_disabled()]

    assert offered >= 10
    assert disabled == ["Restore…"]  # there is no snapshot


def test_a_held_stream_is_let_go_from_its_page(browser, server):
    with looking(browser, server.url, refused=401) as page:
        sign_in(page, ADMIN)
        open_stream(page, HELD)
        expect(page.locator(".title-badge")).to_have_text("Held back")
        expect(page.locator(".advice")).to_contain_text("it is frozen and does not learn")
        page.locator(".advice").get_by_role("button", name="Let it adapt").click()
        page.get_by_role("dialog").get_by_role("button", name="Set the mode").click()
        expect(page.locator(".title-badge")).to_have_text("New")
        expect(fact(page, "Mode")).to_have_text("adapt")
        expect(section(page, "Events").locator(".event-kind").filter(has_text="Held back")).to_have_count(1)
        page.goto("/#/")
        expect(total(page, "In trouble").locator("dd > span")).to_have_text("1")


def test_a_damaged_stream_is_reset_or_ended_from_its_page(browser, tmp_path):
    data, streams = tmp_path / "data", ("cam-broken", "cam-unwanted")
    with serving(tmp_path, data=data) as running, Client(running.url) as client:
        wait_ready(running)
        for stream in streams:
            client.infer("fashion", "input", stored()[0][:2], stream)
    for checkpoint in (data / "checkpoints").iterdir():
        checkpoint.write_bytes(b"broken")
    with serving(tmp_path, data=data) as running:
        wait_ready(running)
        with looking(browser, running.url, refused=422) as page:
            problem = page.locator("div.problem")
            page.goto(f"/#/streams/{streams[0]}")
            expect(problem).to_contain_text("its checkpoint is damaged")
            problem.get_by_role("button", name="Reset…").click()
            expect(page.get_by_role("dialog")).to_contain_text("Reset deletes everything that cam-broken has learned.")
            keep(page, "unfit", WIDE, "light")
            page.get_by_role("dialog").get_by_role("button", name="Reset the stream").click()
            expect(fact(page, "Learning steps")).to_have_text("0")
            expect(problem).to_be_hidden()
            page.goto(f"/#/streams/{streams[1]}")
            expect(page.get_by_role("heading", level=1)).to_have_text(streams[1])
            problem.get_by_role("button", name="End…").click()
            page.get_by_role("dialog").get_by_role("button", name="End the stream").click()
            expect(rows(page)).to_have_count(1)
