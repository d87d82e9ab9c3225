"""ONNX models: run by ONNX Runtime as shipped, and rebuilt in PyTorch where pipelines reach inside."""

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

OPAQUE = "this ONNX graph takes output adjusters alone"
TOLERANCE = 1e-3
"""Of logits and features, beside the largest one."""


class OnnxNetwork(nn.Module):
    """Runs a graph; its features pass through `features`, so that they can be tapped as in any network."""

    def __init__(self, session: onnxruntime.InferenceSession, outputs: list[str]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = outputs

    def __deepcopy__(self, memo: dict[int, object]) -> "OnnxNetwork":
        """A copy shares the session, which keeps no state between runs."""
        return OnnxNetwork(self._session, self._outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map standardised x (N, ...) to logits (N, classes)."""
        logits, features = self.answers(x)
        self.features(features)
        return logits

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map standardised x (N, ...) to logits (N, classes) and features (N, ...)."""
        found = self._session.run(self._outputs, {self._input: x.contiguous().numpy()})
        return torch.from_numpy(found[0]), torch.from_numpy(found[-1])


def runs_as_shipped(spec: Spec) -> bool:
    """Tell whether a pipeline takes a model's answers as they are, so that a graph need not be rebuilt for it."""
    return (spec.normalizer, spec.learner) == ("source", "none")


def load(bundle: Bundle, threads: int) -> SourceModel:
    """Open the graph of an `onnx` bundle as it was shipped, its inside closed.

    Raises:
        BundleError: If the file is no graph, or its inputs and outputs are not those of bundle.toml.
    """
    try:
        session = session_of(str(bundle.model_file), threads)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
        raise BundleError(f"{bundle.model_file} is no graph that ONNX Runtime can run: {error}") from None
    wanted = [name for name in (bundle.toml.model.logits, bundle.toml.model.features) if name]
    there = [output.name for output in session.get_outputs()]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise BundleError(f"{bundle.model_file} has no output {missing[0]!r}; its outputs are {there}")
    if len(session.get_inputs()) != 1:
        raise BundleError(f"{bundle.model_file} takes {len(session.get_inputs())} inputs, expected one")
    spec = bundle.input
    return SourceModel(
        network=OnnxNetwork(session, wanted),
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
    """Return a graph's model rebuilt in PyTorch, or the model as shipped, which tells why it cannot be."""
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
    """Answer x (N, ...) by a rebuilt network and by its graph.

    Raises:
        UnfitError: If they differ by more than rounding.
    """
    try:
        answers = zip(("logits", "features"), network.answers(x), graph.answers(x), strict=True)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare exceptions of its own
        raise UnfitError(f"it fails on a made sample: {error}") from None
    for name, given, wanted in answers:
        apart = float((given - wanted).abs().max()) if given.shape == wanted.shape else float("inf")
        if not apart <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise UnfitError(f"PyTorch's {name} are {apart:.2g} from ONNX Runtime's")
