"""What a stream's page reports and what is set of its guard, in a real browser against a real server."""

import re

import pytest
from playwright.sync_api import expect

from service.client import Client
from service.monitoring.guard import Policy
from tests.e2e.pages import IN_CHROMIUM, NARROW, SCREENSHOTS, WIDE, act, fact, fits, keep, looking, open_stream, section
from tests.e2e.traffic import CLASSES, give_labels, send_drift_to
from tests.serving import serving, wait_ready

pytestmark = IN_CHROMIUM
SETTINGS = {"ACCLIMATE_PROBE_EVERY": "3", "ACCLIMATE_SOURCE_CHECK_EVERY": "2", "OMP_NUM_THREADS": "1"}
STREAMS = (
    {"id": "lab-4", "adapter": "ema+tent", "mode": "shadow"},
    {"id": "line-1", "adapter": "batch+tent"},
    {"id": "quiet", "adapter": "ema"},
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a stream in shadow, one that adapts, and one that was sent nothing."""
    with serving(tmp_path_factory.mktemp("reports"), environment=SETTINGS) as running:
        wait_ready(running)
        with Client(running.url) as client:
            for stream in STREAMS:
                client.call("POST", "/v1/streams", stream)
            send_drift_to(client, ["lab-4", "line-1"])
            give_labels(client, "lab-4")
        yield running


def of_stream(server, stream, what=""):
    with server.client() as client:
        return client.get(f"/v1/streams/{stream}{what}").json()


def test_the_guard_is_seen_and_set_and_said_what_it_costs(browser, server):
    with looking(browser, server.url) as page:
        open_stream(page, "line-1")
        dialog = act(page, "Guard…")
        expect(dialog.get_by_label("Collapse")).to_be_focused()
        dialog.get_by_label("Collapse").select_option("off")
        dialog.get_by_label("Drift ended").select_option("reset")
        dialog.get_by_label("Budget").fill("2.5")
        dialog.get_by_label("Pause").fill("0")
        expect(dialog.locator(".loses")).to_contain_text("Off instead of roll back.")
        expect(dialog.locator(".loses")).to_contain_text("keeps answering one class")
        expect(dialog.locator(".guard-change p")).to_have_count(4)
        dialog.get_by_role("button", name="Set the guard").click()
        expect(page.locator(".toast").last).to_contain_text("collapse, drift ended, budget, pause")
        expect(fact(page, "Guard")).to_contain_text("collapse: off")
        changed = of_stream(server, "line-1")["guard"]
        dialog = act(page, "Guard…")
        expect(dialog.get_by_label("Budget")).to_have_value("2.5")
        dialog.get_by_role("button", name="Set all to default").click()
        dialog.get_by_role("button", name="Set the guard").click()
        expect(fact(page, "Guard")).to_contain_text("collapse: roll back")

    assert changed == Policy(collapse="off", drift_ended="reset", budget=0.025, pause=0).model_dump()
    assert of_stream(server, "line-1")["guard"] == Policy().model_dump()


def test_every_field_of_the_policy_is_offered_with_the_servers_defaults_and_ranges(browser, server):
    with looking(browser, server.url) as page:
        open_stream(page, "quiet")
        dialog = act(page, "Guard…")
        fields = dialog.locator("select, input").evaluate_all("all => all.map(one => one.name)")
        selected = dialog.locator("option:checked").all_inner_texts()
        options = {name: dialog.locator(f"select[name={name}] option").count() for name in ("collapse", "non_finite")}
        described = dialog.locator("select, input").evaluate_all(
            "all => all.map(one => one.getAttribute('aria-describedby').split(' ')"
            ".every(id => document.getElementById(id).textContent.trim()))"
        )
        dialog.get_by_role("button", name="Set the guard").click()
        expect(dialog.get_by_role("alert")).to_have_text("Nothing is changed yet.")
        dialog.get_by_label("Takeover").fill("101")
        refused = dialog.get_by_label("Takeover").evaluate("field => !field.checkValidity()")

    assert sorted(fields) == sorted(Policy.model_fields)
    assert all(text.endswith("(default)") for text in selected)
    assert options == {"collapse": 5, "non_finite": 4}
    assert all(described)
    assert refused


def test_a_guard_that_another_operator_changed_is_not_overwritten_unasked(browser, server):
    with looking(browser, server.url, refused=412) as page:
        open_stream(page, "quiet")
        dialog = act(page, "Guard…")
        dialog.get_by_label("Harm").select_option("freeze")
        with server.client() as client:
            client.patch("/v1/streams/quiet", json={"guard": {"pause": 7}})
            client.post("/v1/streams/quiet/reset", json={})
        dialog.get_by_role("button", name="Set the guard").click()
        expect(dialog.get_by_role("alert")).to_contain_text("The guard was changed while you were reading.")
        meanwhile = of_stream(server, "quiet")["guard"]
        dialog.get_by_role("button", name="Set the guard anyway").click()
        expect(fact(page, "Guard")).to_contain_text("harm: freeze")

    assert meanwhile == Policy(pause=7).model_dump()
    assert of_stream(server, "quiet")["guard"] == Policy(harm="freeze").model_dump()


def test_a_stream_in_shadow_reports_what_adapting_would_have_changed(browser, server):
    report = of_stream(server, "lab-4")["shadow"]
    with looking(browser, server.url) as page:
        open_stream(page, "lab-4")
        shadow = section(page, "Shadow mode")
        changed = round(report["images"] * report["changed"])
        expect(shadow).to_contain_text(f"Adapting would have changed {changed} answers of {report['images']}")
        expect(shadow).to_contain_text(re.compile(r"By the labels so far, the adapted model is right on \d+\.\d.%"))
        moves = shadow.locator("tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        open_stream(page, "line-1")
        expect(section(page, "Shadow mode")).to_be_hidden()

    assert moves == [[move["source"], move["adapted"], str(move["images"])] for move in report["moves"]]
    assert {name for source, adapted, _ in moves for name in (source, adapted)} <= set(CLASSES)


def test_entropies_and_the_features_of_the_newest_images_are_told(browser, server):
    history = of_stream(server, "line-1", "/history")
    compared = history["probe"]["compared"]
    with looking(browser, server.url) as page:
        open_stream(page, "line-1")
        entropies = section(page, "Entropy of the answers")
        expect(entropies).to_contain_text(re.compile(r"Half of the newest images are answered with less than \d\.\d\d"))
        heights = entropies.locator(".column").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.height))")
        entropies.get_by_text("The bars as a table").click()
        expect(entropies.locator("tbody tr")).to_have_count(20)
        probe = section(page, "Last probe")
        expect(probe).to_contain_text(f"MMD {compared['mmd']:.3f}, p {compared['p_value']:.3f}")
        expect(probe).to_contain_text("of the probe set")
        open_stream(page, "quiet")
        expect(section(page, "Entropy of the answers")).to_be_hidden()
        expect(section(page, "Last probe")).to_be_hidden()

    highest = max(history["entropies"])
    assert heights == pytest.approx([100 * share / highest for share in history["entropies"]], abs=0.1)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_reports_and_the_guards_dialog_fit_and_are_kept_as_pictures(browser, server, size, theme):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with looking(browser, server.url, size, theme) as page:
        open_stream(page, "lab-4")
        expect(page.locator(".uplot").first).to_be_visible()
        keep(page, "shadow", size, theme, whole=True)
        reports = fits(page)
        dialog = act(page, "Guard…")
        dialog.get_by_label("Collapse").select_option("off")
        keep(page, "dialog-guard-changed", size, theme)
        inside = dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
        dialog.get_by_label("Reset every").scroll_into_view_if_needed()
        dialog.evaluate("dialog => dialog.scrollTo(0, dialog.scrollHeight)")
        keep(page, "dialog-guard-end", size, theme)

    assert reports
    assert inside


def test_layers_and_estimates_are_drawn_in_the_ways_that_the_server_tells(browser, server):
    def with_more(route):
        told = route.fetch().json()
        added = {"confidence": 0.91, "confidence_accuracy": 0.82, "source_confidence_accuracy": 0.73}
        for name, value in added.items():
            if name in told["columns"]:
                at = told["columns"].index(name)
                told["points"] = [[*point[:at], value, *point[at + 1 :]] for point in told["points"]]
            else:
                told["columns"].append(name)
                told["points"] = [[*point, value] for point in told["points"]]
        told["layers"]["divergences"] = [[2 + value for value in row] for row in told["layers"]["values"]]
        route.fulfill(json=told)

    with looking(browser, server.url) as page:
        page.route("**/line-1/history", with_more)
        open_stream(page, "line-1")
        accuracy = page.locator("figure", has=page.get_by_role("heading", name="Accuracy"))
        expect(accuracy.locator(".sr-only")).to_contain_text(re.compile(r"By confidence: now 82\.0.%"))
        quiet = accuracy.locator(".u-series.u-off .u-label").all_inner_texts()
        accuracy.get_by_text("By confidence", exact=True).click()
        expect(accuracy.locator(".u-series.u-off")).to_have_count(2)
        layers = section(page, "Drift by layer")
        layers.get_by_role("button", name="Symmetric KL").click()
        expect(layers.get_by_role("button", name="Symmetric KL")).to_have_attribute("aria-pressed", "true")
        layers.get_by_text("All layers as a table").click()
        least = min(float(text) for text in layers.locator("tbody td").all_inner_texts())
        keep(page, "estimates", WIDE, "light", whole=True)

    assert quiet == ["By confidence", "Mean confidence", "Source, by confidence"]
    assert least >= 2


def test_alarms_are_told_by_what_they_watch(browser, server):
    watched = {
        "entropy": "Entropy of the answers",
        "drift": "Drift of the inputs",
        "source_entropy": "Entropy of the source model's answers",
        "agreement": "Agreement with the source model",
        "prior_distance": "Distance of the answered classes from the prior",
        "parameter_distance": "Distance of the learned parameters from the source's",
    }

    def with_alarms(route):
        told = route.fetch().json()
        told["events"] = [
            {
                "id": 10**6 + number, "time": told["points"][-1][1], "kind": "drift", "stream": "line-1",
                "model": "fashion", "action": "", "reason": f"{signal} rose from 0.1 to 0.2", "figures": {},
            }
            for number, signal in enumerate(watched)
        ]  # fmt: skip
        route.fulfill(json=told)

    with looking(browser, server.url) as page:
        page.route("**/line-1/history", with_alarms)
        open_stream(page, "line-1")
        expect(page.locator(".event").filter(has_text="rose from 0.1 to 0.2.")).to_have_count(len(watched))
        said = page.locator(".event .event-body p:first-of-type").all_inner_texts()

    assert {f"{name} rose from 0.1 to 0.2." for name in watched.values()} <= set(said)
