"""A network's first gradient steps are taken in a child process: what ends that is refused, and the server lives."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs
from torch import nn

from service.errors import BundleError, UnfitError
from service.models import gradient_trials
from service.models.bundle import read_bundle
from service.models.gradient_child import SIZES
from service.models.gradient_trials import Outcome, Trials, foreign_code, read_outcome
from service.models.hosted import host
from tests.applications import INFER, application, assert_error
from tests.crashing import FACTORY, Crashing, crashing_bundle
from tests.models import untrained_reference_network
from tests.serving import images, infer_body, serving, wait_ready


def hosted(bundle, folder):
    return host(read_bundle(bundle), (FACTORY,), 1, trials=Trials(folder, (FACTORY,), 1))


def events_of(logs):
    return [entry["event"] for entry in logs if entry["event"].startswith("gradients_")]


@pytest.mark.e2e
def test_a_spec_whose_backward_crashes_is_refused_by_signal_and_the_server_goes_on(tmp_path):
    bundle = crashing_bundle(tmp_path / "bundle", "crash")
    environment = {"ACCLIMATE_TRY_GRADIENTS": "true", "ACCLIMATE_ALLOW_FACTORIES": f'["{FACTORY}"]'}
    with serving(tmp_path, "--bundle", str(bundle), environment=environment) as server:
        wait_ready(server)
        with server.client() as client, ThreadPoolExecutor(1) as pool:
            assert client.post(INFER, json=infer_body(images(2), "s")).status_code == 200

            changing = pool.submit(client.patch, "/v1/streams/s", json={"adapter": "batch+tent"})
            pauses = []
            while not changing.done():
                began = time.perf_counter()
                assert client.post(INFER, json=infer_body(images(2), "other")).status_code == 200
                pauses.append(time.perf_counter() - began)

            assert_error(changing.result(), 422, "SIGSEGV")
            assert len(pauses) > 10, "the others waited for the trial"
            created = client.post("/v1/streams", json={"model": "reference", "adapter": "batch+tent"})
            assert_error(created, 422, "SIGSEGV")
            assert client.get("/v1/streams/s").json()["adapter"] == "source"
            assert client.patch("/v1/streams/s", json={"adapter": "batch"}).status_code == 200
            assert client.post(INFER, json=infer_body(images(2), "s")).status_code == 200
        assert server.stop() == 0


def test_auto_is_refused_where_a_pipeline_that_it_may_choose_crashes_and_a_dry_run_too(tmp_path):
    bundle = crashing_bundle(tmp_path / "bundle", "crash")
    with application(tmp_path, bundle, allow_factories=(FACTORY,), try_gradients=True) as api:
        api.infer(images(2), "s")
        response = api("PATCH", "/v1/streams/s?dry_run=true", json={"adapter": "auto"})
        assert_error(response, 422, "SIGSEGV")
        assert "auto: a gradient step of " in response.json()["error"]
        api.infer(images(2), "s")


def test_a_stored_stream_whose_spec_was_never_tried_is_refused_at_the_next_start_and_others_are_served(tmp_path):
    bundle = crashing_bundle(tmp_path / "bundle", "crash")
    with application(tmp_path, bundle, allow_factories=(FACTORY,)) as api:
        api.create(id="s", adapter="batch+tent")
    with application(tmp_path, bundle, allow_factories=(FACTORY,), try_gradients=True) as api:
        assert_error(api("POST", INFER, json=infer_body(images(2), "s")), 422, "SIGSEGV")
        api.infer(images(2), "other")


def test_a_default_spec_that_ends_the_process_is_a_bundle_error(tmp_path):
    bundle = crashing_bundle(tmp_path / "bundle", "exit", least=SIZES[-1], adapter="batch+tent")
    said = f"batch\\+tent.* with {SIZES[-1]} images.*exit status 3.*TRY_GRADIENTS"
    with pytest.raises(BundleError, match=said):
        hosted(bundle, tmp_path / "tried")


@pytest.mark.slow
def test_a_backward_that_hangs_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_trials, "SECONDS", 25.0)  # the process may take long to come to the first step
    model = hosted(crashing_bundle(tmp_path / "bundle", "hang"), None)
    with pytest.raises(UnfitError, match="did not end within 25 s"):
        model.fit("batch+tent", {})


@pytest.mark.parametrize("status", [None, -signal.SIGALRM])
def test_a_step_that_took_too_long_is_refused_and_a_model_that_loads_slowly_is_not(status, tmp_path):
    report = tmp_path / "report"
    assert read_outcome(report, status).refusal == ""
    report.write_text('{"spec": "batch+tent", "images": 1}\n')
    assert "did not end within 60 s" in read_outcome(report, status).refusal


def test_a_network_that_passes_is_tried_once_for_all_options_and_later_starts(tmp_path):
    bundle = crashing_bundle(tmp_path / "bundle", "nothing", adapter="batch+tent")
    with capture_logs() as logs:
        hosted(bundle, tmp_path / "tried").fit("batch+tent", {"tent": {"lr": 0.01}})
        hosted(bundle, tmp_path / "tried").fit("unmix_tns", {})
    assert events_of(logs) == ["gradients_tried"]


def test_only_what_ends_the_process_in_a_step_is_refused(tmp_path):
    report, step = tmp_path / "report", '{"spec": "batch+tent", "images": 16}\n'
    report.write_text(step)
    assert "with 16 images, was tried in a child process, and it ended that process by SIGABRT" in (
        read_outcome(report, -signal.SIGABRT).refusal
    )
    report.write_text(step + '{"raised": "ZeroDivisionError: division by zero"}\n')
    assert read_outcome(report, 0) == Outcome(doubt="ZeroDivisionError: division by zero")
    report.write_text(step + '{"passed": true}\n')
    assert read_outcome(report, 0) == Outcome()


def test_a_network_of_builtin_layers_alone_has_no_foreign_code():
    plain, hooked, own = (untrained_reference_network() for _ in range(3))
    hooked[0].register_forward_hook(lambda *_: None)
    own[0].forward = lambda x: x
    weighted = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))

    assert foreign_code(nn.Sequential(plain, weighted)) == ()
    assert [foreign_code(each) for each in (hooked, own)] == [(__name__,)] * 2
    assert foreign_code(nn.Sequential(plain, Crashing("nothing"))) == (Crashing.__module__,)


def test_a_stop_ends_the_trial_that_runs(tmp_path):
    bundle = read_bundle(crashing_bundle(tmp_path / "bundle", "hang"))
    trials = Trials(None, (FACTORY,), 1)
    model = host(bundle, (FACTORY,), 1, trials=trials)
    with ThreadPoolExecutor(1) as pool:
        fitting = pool.submit(model.fit, "batch+tent", {})
        while trials._process is None and not fitting.done():
            time.sleep(0.01)
        process = trials._process
        trials.close()
        fitting.result(timeout=10)
    assert process.returncode == -signal.SIGKILL
