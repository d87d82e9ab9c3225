"""What every monitor of `service/monitoring/monitors` promises, one property a function."""

import inspect
import json
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from adapters.monitors.accuracy import Calibration
from adapters.network.source_observer import Look
from adapters.state import check, flatten, is_finite, unflatten
from service.models.reference import Reference
from service.monitoring import monitors, registry, stream_monitors
from service.monitoring.monitor_state import Seeing
from service.monitoring.signal import Signal
from service.monitoring.signals import every_signal
from tests.conformance.cases import MONITORS
from tests.serving import ROOT

CLASSES = 3
REFERENCE = Reference(
    prior=torch.tensor([0.5, 0.25, 0.25]),
    entropies=None,
    calibration=Calibration(torch.tensor(0.55), torch.tensor(0.7), torch.tensor(0.65)),
    probe=None,
)
UNCALIBRATED = Reference(prior=torch.full((CLASSES,), 1 / CLASSES), entropies=None, calibration=None, probe=None)
every_monitor = pytest.mark.parametrize("monitor", registry.found().values(), ids=list(registry.found()))


def answers(confidences, classes=CLASSES):
    """Return probabilities (N, classes) that answer class after class with these confidences."""
    rows = [[(1 - sure) / (classes - 1)] * classes for sure in confidences]
    for number, row in enumerate(rows):
        row[number % classes] = confidences[number]
    return torch.tensor(rows)


def request(confidences=(0.8, 0.6), source=(0.8, 0.8), classes=CLASSES):
    looked = Look(torch.tensor(0.01), torch.empty(0), torch.tensor(0.0), answers(source, classes).log(), torch.empty(0))
    return Seeing(answers(confidences, classes), 0.01, None, looked, {})


NAN = torch.full((2, CLASSES), math.nan)
REQUESTS = {
    "one_image": request((0.9,), (0.9,)),
    "sure_of_one_class": Seeing(torch.eye(CLASSES)[[0] * 8], None, None, None, None),
    "equal_probabilities": request((1 / 3, 1 / 3), (1 / 3, 1 / 3)),
    "nothing_finite": Seeing(NAN, math.nan, math.nan, None, None),
    "nothing_finite_beside_a_look": Seeing(NAN, None, None, request().look, {}),
    "a_source_model_that_is_not_finite": Seeing(
        answers((0.8, 0.6)), None, None,
        Look(torch.tensor(math.nan), torch.empty(0), torch.tensor(0.0), NAN, torch.empty(0)), {},
    ),
}  # fmt: skip


def after(seeings, reference=REFERENCE):
    """Return what is found after requests."""
    state = stream_monitors.init(CLASSES, {})
    for seeing in seeings:
        found = stream_monitors.update(state, seeing, reference, takeover=0.4, margin=0.05, every=20)
        state = found.state
    return found


@every_monitor
def test_a_monitor_reads_what_its_case_says(monitor):
    place = Path(inspect.getsourcefile(type(monitor))).name
    line = f"{monitor.name!r}: {{signal: value}},"
    assert monitor.name in MONITORS, (
        f"monitors/{place} has no case: add {line} to MONITORS in tests/conformance/cases.py"
    )

    read = after([request()]).signals

    assert {name: round(read[name], 4) for name in MONITORS[monitor.name]} == MONITORS[monitor.name]
    assert MONITORS[monitor.name].keys() == {signal.name for signal in monitor.signals}


@every_monitor
def test_a_monitor_describes_its_signals(monitor):
    for signal in monitor.signals:
        assert all(getattr(signal, field.name) != "" for field in fields(Signal)), signal
        assert signal.name.isidentifier()
        assert signal.meaning.endswith(".")
        assert every_signal()[signal.name] is signal


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("reference", [REFERENCE, UNCALIBRATED], ids=["calibrated", "uncalibrated"])
def test_at_extremes_signals_are_declared_finite_and_shares_lie_between_0_and_1(name, reference):
    for seeings in ([REQUESTS[name]], [request(), REQUESTS[name]], [REQUESTS[name], request()]):
        found = after(seeings, reference)

        assert is_finite(found.state)
        check(found.state)
        for signal, value in found.signals.items():
            assert math.isfinite(value)
            if every_signal()[signal].unit == "share" and not signal.endswith("confidence_accuracy"):
                assert -1e-6 <= value <= 1 + 1e-6, signal


@every_monitor
def test_a_state_is_named_tensors_that_come_back_and_a_request_leaves_it_as_it_was(monitor):
    begun = monitor.init(CLASSES)
    if begun is None:
        assert monitor.update(None, request()) is None
        return
    before = {name: tensor.clone() for name, tensor in flatten(begun).items()}
    moved = monitor.update(begun, request())

    assert all(torch.equal(tensor, before[name]) for name, tensor in flatten(begun).items())
    assert flatten(unflatten(begun, flatten(moved))).keys() == before.keys()
    again = flatten(monitor.update(begun, request()))
    assert all(torch.equal(tensor, again[name]) for name, tensor in flatten(moved).items())


NEW = '''"""A monitor that somebody adds: one file."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.values import PartState
from service.monitoring.monitor import Monitor
from service.monitoring.signal import Signal


@dataclass(frozen=True)
class Seen(PartState):
    images: Tensor


class ImagesSeen(Monitor):
    name = "images_seen"
    signals = (Signal("images_seen", "Images seen", "ratio", "neither", "Images so far."),)

    def init(self, classes):
        return Seen(torch.zeros((), dtype=torch.int64))

    def update(self, state, seeing):
        return Seen(state.images + len(seeing.probabilities))

    def read(self, state, view):
        return {"images_seen": state.images}
'''
SCRIPT = """
import json, sys
from pathlib import Path
from service.monitoring import monitors
monitors.__path__.append(sys.argv[1])
from tests.applications import application
from tests.bundles import torch_bundle
from tests.serving import images
folder = Path(sys.argv[2])
with application(folder, torch_bundle(folder / "bundle")) as api:
    api.infer(images(4), "s"), api.infer(images(3), "s")
    taken = api("POST", "/v1/streams/s/snapshots").json()["id"]
    api.infer(images(2), "s")
    api("POST", "/v1/streams/s/restore", json={"snapshot": taken})
    api.infer(images(1), "s")
    history = api("GET", "/v1/streams/s/history").json()
    column = history["columns"].index("images_seen")
    described = {each["name"]: each["meaning"] for each in api("GET", "/v1/signals").json()["items"]}
    metrics = [line for line in api("GET", "/metrics").text.splitlines() if 'signal="images_seen"' in line]
    print(json.dumps({
        "stream": api.stream("s")["signals"]["images_seen"],
        "history": [point[column] for point in history["points"]],
        "described": described["images_seen"],
        "metrics": [line for line in metrics if "_p50" in line],
    }))
"""


def test_a_new_file_is_a_monitor_in_api_history_metrics_and_snapshots(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "images_seen.py").write_text(NEW)

    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "new"), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    found = json.loads(next(line for line in told.stdout.splitlines() if line.startswith('{"stream"')))
    assert found["stream"] == 8
    assert found["history"] == [4, 7, 9, 8]
    assert found["described"] == "Images so far."
    assert found["metrics"] == ['acclimate_stream_signal_p50{model="reference",signal="images_seen"} 8.0']


def test_two_monitors_of_one_name_are_refused(monkeypatch):
    kind = type(next(iter(registry.found().values())))
    twin = type("Twin", (kind,), {"__module__": f"{monitors.__name__}.{kind.name}"})
    monkeypatch.setattr(sys.modules[twin.__module__], "Twin", twin, raising=False)

    with pytest.raises(ValueError, match="names must differ"):
        registry.found.__wrapped__()
