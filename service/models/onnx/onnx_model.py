"""ONNX models: executed by ONNX Runtime as shipped, and rebuilt in PyTorch for pipelines that adapt the network."""

from dataclasses import replace
from typing import cast

import onnxruntime
import torch
from torch import Tensor, nn

from adapters.adapter import Spec
from adapters.source import SourceModel
from service.errors import BundleError, UnfitError
from service.models.bundle import Bundle
from service.models.load_checks import samples
from service.models.onnx.network import RebuiltNetwork, rebuild
from service.models.onnx.reader import read
from service.models.onnx_session import session_of

OPAQUE = "this ONNX graph supports only output adjusters"
TOLERANCE = 1e-3
"""Largest difference of logits and features, relative to the largest value."""


class OnnxNetwork(nn.Module):
    """Runs a graph. The features pass through the module `features`, so that hooks can read them as in any network."""

    def __init__(self, session: onnxruntime.InferenceSession, outputs: list[str]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = outputs

    def __deepcopy__(self, memo: dict[int, object]) -> "OnnxNetwork":
        """Return a copy that shares the session, which keeps no state between runs."""
        return OnnxNetwork(self._session, self._outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of standardised x (N, ...)."""
        logits, features = self.answers(x)
        self.features(features)
        return logits

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, classes) and features (N, ...) of standardised x (N, ...)."""
        values = self._session.run(self._outputs, {self._input: x.contiguous().numpy()})
        return torch.from_numpy(values[0]), torch.from_numpy(values[-1])


def runs_as_shipped(spec: Spec) -> bool:
    """Return whether a pipeline only adjusts a model's outputs, so that it can run a graph as shipped."""
    return (spec.normalizer, spec.learner) == ("source", "none")


def load(bundle: Bundle, threads: int) -> SourceModel:
    """Open the graph of an `onnx` bundle as shipped. Adapters cannot reach its layers.

    Raises:
        BundleError: If ONNX Runtime cannot run the file, or its inputs and outputs do not match bundle.toml.
    """
    try:
        session = session_of(str(bundle.model_file), threads)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
        raise BundleError(f"{bundle.model_file} is no graph that ONNX Runtime can run: {error}") from None
    outputs = [name for name in (bundle.toml.model.logits, bundle.toml.model.features) if name]
    available = [output.name for output in session.get_outputs()]
    missing = [name for name in outputs if name not in available]
    if missing:
        raise BundleError(f"{bundle.model_file} has no output {missing[0]!r}; its outputs are {available}")
    if len(session.get_inputs()) != 1:
        raise BundleError(f"{bundle.model_file} takes {len(session.get_inputs())} inputs, expected one")
    spec = bundle.input
    return SourceModel(
        network=OnnxNetwork(session, outputs),
        input_shape=spec.shape,
        classes=len(bundle.classes),
        mean=spec.mean,
        std=spec.std,
        features="features",
        artefacts=bundle.artefacts,
        value_range=bundle.input.value_range,
        output=bundle.toml.model.output,
        opaque=OPAQUE,
    )


def opened(bundle: Bundle, shipped: SourceModel) -> SourceModel:
    """Return a graph's model rebuilt in PyTorch; if that fails, the shipped model with the reason in `opaque`."""
    model = bundle.toml.model
    outputs = (model.logits, model.features or model.logits)
    try:
        network = rebuild(read(bundle.model_file, outputs), outputs, bundle.input.shape)
        for x in samples(shipped):
            _compare(network, cast("OnnxNetwork", shipped.network), shipped.standardized(x))
    except UnfitError as error:
        return replace(shipped, opaque=f"{OPAQUE}, since {error}")
    return replace(shipped, network=network.eval(), opaque="")


@torch.no_grad()
def _compare(network: RebuiltNetwork, graph: OnnxNetwork, x: Tensor) -> None:
    """Compare a rebuilt network's answers to x (N, ...) with its graph's.

    Raises:
        UnfitError: If they differ by more than rounding.
    """
    try:
        answers = zip(("logits", "features"), network.answers(x), graph.answers(x), strict=True)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
        raise UnfitError(f"it fails on a random sample: {error}") from None
    for name, actual, expected in answers:
        difference = float((actual - expected).abs().max()) if actual.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise UnfitError(f"PyTorch's {name} are {difference:.2g} from ONNX Runtime's")
