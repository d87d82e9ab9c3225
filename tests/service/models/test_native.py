"""Steps compiled to machine code: the pipeline's own to rounding, made beside the server, used only where they pay."""

import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from threading import Event
from time import monotonic, sleep

import pytest
import torch

from adapters.state import flatten
from service.models.bundle import read_bundle
from service.models.hosted import host
from service.models.kernels.capabilities import capabilities
from service.models.kernels.kernel import WORTH, KernelStatus
from service.models.kernels.native import background as workshops
from service.models.kernels.native.background import COMPILING, Workshop
from service.models.kernels.native.passes import IMITATE, OBSERVE, READ
from service.models.kernels.verify import VALUES, verify
from service.models.process_environment import private_environment
from service.models.process_job import Job
from service.serving.stream_batching import Shared
from service.streams.stream import Stream
from service.streams.value import Config, first_value
from tests.applications import application
from tests.bundles import FACTORY, torch_bundle
from tests.serving import images

IMAGES = 6
SGD = {"tent": {"optimizer": "sgd", "lr": 0.05}}
"""Adam's first steps follow the sign of gradients that are rounding alone; this is exact to compare by."""
PATIENCE = 240.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return host(read_bundle(torch_bundle(tmp_path_factory.mktemp("native") / "bundle")), [FACTORY], 1)


def stream_of(model, fitted, durability="periodic"):
    return Stream("s", first_value(Config(model, fitted, durability=durability)))


def wait(until):
    deadline = monotonic() + PATIENCE
    while not until():
        assert monotonic() < deadline
        sleep(0.05)


def asked_for(workshop, stream, x, times):
    """Take so many steps, each from the initial state; return what is known of the compiled one."""
    fitted = stream.current.config.fitted
    for _ in range(times):
        workshop.step(stream.model, fitted, fitted.initial(), x, exact=False)
    return fitted.kernels.native[len(x)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folder in which folders of jobs are made."""
    return tmp_path_factory.mktemp("places")


@pytest.fixture(scope="module")
def compiled(model, places):
    """A stream whose step has been compiled and judged, who did it, and the step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(places))
        return compiled_in_place(model, model.fit("batch+tent", SGD))


def compiled_in_place(model, fitted):
    stream, workshop = stream_of(model, fitted), Workshop((FACTORY,), 1, often=3)
    statuses = fitted.kernels.native
    assert asked_for(workshop, stream, model.sample(IMAGES), 3) == COMPILING
    wait(lambda: statuses[IMAGES] != COMPILING)
    step = statuses[IMAGES].kernel
    assert step is not None, statuses[IMAGES].reason
    assert statuses[IMAGES].serving(1) is None
    assert asked_for(workshop, stream, model.sample(IMAGES), 1).times > 0
    return stream, workshop, step


def test_a_compiled_step_is_the_pipelines_own_and_says_what_it_gains(compiled):
    stream, _, _ = compiled
    native = stream.current.config.fitted.kernels.native[IMAGES]
    assert (native.reason == "") == (native.times >= WORTH)
    assert native.reason == "" or native.reason.startswith("the machine code is not used: it takes ")


def test_a_compiled_step_is_gone_from_the_disk_once_it_is_loaded(compiled, places):
    wait(lambda: not list(places.glob("acclimate-native-*")))


def test_a_compiled_step_answers_and_learns_as_the_pipeline_step_after_step(compiled, model):
    stream, _, step = compiled
    ours = theirs = stream.current.config.fitted.initial()
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        x = torch.rand(IMAGES, *model.bundle.input.shape, generator=generator)
        kept = {name: tensor.clone() for name, tensor in flatten(ours).items()}
        before = ours
        given, ours = step.step(ours, x)
        wanted, theirs = stream.current.config.fitted.step(theirs, x)
        torch.testing.assert_close(given.probabilities, wanted.probabilities, atol=1e-4, rtol=0)
        assert given.signals.keys() == wanted.signals.keys()
        for name, signal in wanted.signals.items():
            torch.testing.assert_close(given.signals[name], signal, atol=1e-4, rtol=1e-4)
        for name, tensor in flatten(theirs).items():
            torch.testing.assert_close(flatten(ours)[name], tensor, atol=1e-4, rtol=1e-4)
        assert all(torch.equal(kept[name], tensor) for name, tensor in flatten(before).items())


def test_what_is_not_finite_stays_so(compiled, model):
    stream, _, step = compiled
    x = torch.full((IMAGES, *model.bundle.input.shape), torch.nan)
    assert not bool(torch.isfinite(step.step(stream.current.config.fitted.initial(), x)[0].probabilities).any())


def test_another_size_and_streams_that_must_be_exact_are_served_by_the_pipeline(compiled, model, monkeypatch):
    stream, workshop, step = compiled
    monkeypatch.setitem(stream.current.config.fitted.kernels.native, IMAGES, KernelStatus("", step, 1, 2.0))
    asked = []
    monkeypatch.setattr(step, "step", lambda *given: asked.append(given) or stream.current.config.fitted.step(*given))
    for count, durability in ((IMAGES, "periodic"), (IMAGES + 1, "periodic"), (IMAGES, "sync")):
        x = model.sample(count)
        Shared(stream_of(model, stream.current.config.fitted, durability), x, workshop).step(
            stream.current.config.fitted.initial(), x
        )
    assert [len(x) for _, x in asked] == [IMAGES]


def test_a_step_that_differs_is_refused(compiled, model, monkeypatch):
    stream, _, step = compiled
    fitted, x = stream.current.config.fitted, model.sample(IMAGES)
    other = model.fit("batch+tent", {"tent": {**SGD["tent"], "lr": 0.5}})
    rounds = [[x], [x.flip(-1)], [x]]
    assert verify(step, fitted, [fitted.initial()], rounds) == ""
    assert "from the pipeline's" in verify(step, other, [fitted.initial()], rounds)
    monkeypatch.setitem(other.kernels.native, IMAGES, replace(COMPILING, kernel=step))
    Workshop((), 1).step(model, other, other.initial(), x, exact=False)
    status = other.kernels.native[IMAGES]
    assert status.kernel is None
    assert status.reason.startswith("the machine code is not used: after ")


def native_of(fitted):
    return capabilities(fitted.adapter, fitted.prepared).native


def test_which_pipelines_are_compiled(model, monkeypatch):
    assert native_of(model.fit("batch+tent", {})) == ""
    assert native_of(model.fit("auto", {})) == "auto chooses among pipelines as it runs"
    assert native_of(model.fit("unmix_tns", {})).startswith("it learns without gradients")
    assert native_of(model.fit("unmix_tns+eta", {})) == ""
    assert native_of(model.fit("roid", {})) == "batch+roid+roid_prior branches on data or draws random numbers"
    assert native_of(model.fit("cotta", {})) == ""
    assert native_of(model.fit("cotta", {"cotta": {"observe_views": True}})).endswith("draws random numbers")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert native_of(model.fit("batch+tent", {})) == "there is no C++ compiler (g++, clang++, c++)"


AUGMENTING = {"cotta": {"threshold": 1.0, "augmentations": 4}}


@pytest.mark.slow
def test_passes_are_compiled_and_the_step_is_the_pipelines_own(model, monkeypatch):
    fitted = model.fit("cotta", AUGMENTING)
    _, _, made = compiled_in_place(model, fitted)
    runs, run = Counter(), made._run
    monkeypatch.setattr(made, "_run", lambda name, *given: runs.update([name]) or run(name, *given))
    ours = theirs = fitted.initial()
    for number in range(3):
        x = model.sample(IMAGES + 1)[number % 2 : IMAGES + number % 2]
        given, ours = made.step(ours, x)
        wanted, theirs = fitted.step(theirs, x)
        torch.testing.assert_close(given.logits, wanted.logits, atol=1e-4, rtol=1e-4)
        for name, tensor in flatten(theirs).items():
            torch.testing.assert_close(flatten(ours)[name], tensor, atol=VALUES, rtol=VALUES)
    assert runs == {READ: 3 * AUGMENTING["cotta"]["augmentations"], OBSERVE: 3 * len(("anchor", "teacher")), IMITATE: 3}
    assert verify(made, fitted, [fitted.initial()], [[model.sample(IMAGES)]]) == ""

    few = model.sample(IMAGES - 1)
    after, wanted = flatten(made.step(ours, few)[1]), flatten(fitted.step(ours, few)[1])
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in after.items())


def test_where_compiling_fails_the_pipeline_serves_and_tells_why(model):
    stream, workshop = stream_of(model, model.fit("batch+tent", {})), Workshop((), 1, often=1)
    statuses = stream.current.config.fitted.kernels.native
    asked_for(workshop, stream, model.sample(1), 1)
    wait(lambda: statuses[1] != COMPILING)
    native = statuses[1]
    assert native.kernel is None
    assert native.reason.startswith("it cannot be compiled: ")
    assert FACTORY in native.reason


def test_a_stop_ends_what_is_being_compiled(model, monkeypatch):
    stream, workshop = stream_of(model, model.fit("batch+eta", {})), Workshop((FACTORY,), 1, often=1)
    started, start = Event(), workshops.subprocess.Popen

    def starting(*given, **named):
        process = start(*given, **named)
        started.set()
        return process

    monkeypatch.setattr(workshops.subprocess, "Popen", starting)
    asked_for(workshop, stream, model.sample(2), 1)
    assert started.wait(30)
    workshop.close()
    wait(lambda: stream.current.config.fitted.kernels.native[2].reason.startswith("it cannot be compiled"))
    assert workshop._process is None


def test_the_compilers_process_knows_no_secrets_and_writes_into_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCLIMATE_DATABASE", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    environment = private_environment(tmp_path)
    assert "hunter2" not in " ".join(environment.values())
    assert {environment["TMPDIR"], environment["TORCHINDUCTOR_CACHE_DIR"]} == {str(tmp_path), str(tmp_path / "cache")}


def test_a_job_is_read_as_it_was_written(tmp_path):
    job = Job(tmp_path / "bundle", ("a.b:c",), "batch+tent", SGD, 4, 2, tmp_path / "own")
    assert Job.from_json(job.to_json()) == job


def test_the_server_tells_which_steps_it_would_compile_and_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    bundle = torch_bundle(tmp_path / "bundle", adapter="batch+tent")
    with application(tmp_path, bundle, compiled_gradients=True) as api:
        for number in range(workshops.OFTEN):
            api.infer(images(1, number), "camera", f"r{number}")
        told = {each["adapter"]: each["native"] for each in api("GET", "/v1/models/reference").json()["pipelines"]}
    (native,) = told["batch+tent"]
    assert native == {
        "images": 1, "serves": False, "gain": 0.0, "reason": "there is no C++ compiler (g++, clang++, c++)",
    }  # fmt: skip
