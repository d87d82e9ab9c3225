"""ONNX models, run by ONNX Runtime behind a module: frozen graphs, adapted at their outputs."""

import onnxruntime
import torch
from torch import Tensor, nn

from adapters.source import SourceModel
from service.bundles import Bundle
from service.errors import BundleError

OPAQUE = "this bundle is an ONNX graph, which runs `source` with any output adjuster"


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
        logits, *rest = self._session.run(self._outputs, {self._input: x.contiguous().numpy()})
        result = torch.from_numpy(logits)
        self.features(torch.from_numpy(rest[0]) if rest else result)
        return result


def load(bundle: Bundle, threads: int) -> SourceModel:
    """Open the graph of an `onnx` bundle.

    Raises:
        BundleError: If the file is no graph, or its inputs and outputs are not those of bundle.toml.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(bundle.model_file, options, providers=["CPUExecutionProvider"])
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
        opaque=OPAQUE,
    )
