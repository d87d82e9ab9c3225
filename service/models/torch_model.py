"""PyTorch models: an allowed factory builds the network, and a safetensors file holds its weights."""

import importlib
from collections.abc import Collection

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from adapters.source import SourceModel
from service.errors import BundleError
from service.models.bundle import Bundle


def load(bundle: Bundle, allow_factories: Collection[str]) -> SourceModel:
    """Build the source model of a `torch` bundle.

    Raises:
        BundleError: If the factory is not allowed or cannot be called, or the weights do not fit the network.
    """
    network = _build(bundle, allow_factories)
    try:
        network.load_state_dict(load_file(bundle.model_file))
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{bundle.model_file} does not fit {bundle.toml.model.factory}: {error}") from None
    spec = bundle.input
    return SourceModel(
        network=network.eval(),
        input_shape=spec.shape,
        classes=len(bundle.classes),
        mean=spec.mean,
        std=spec.std,
        features=bundle.toml.model.features,
        artefacts=bundle.artefacts,
        value_range=spec.value_range,
        output=bundle.toml.model.output,
    )


def _build(bundle: Bundle, allow_factories: Collection[str]) -> nn.Module:
    factory = bundle.toml.model.factory or ""
    if factory not in allow_factories:
        raise BundleError(
            f"{bundle.path} names the factory {factory!r}, which is not allowed; allowed are {sorted(allow_factories)} "
            "(allow it with --allow-factory if you trust its code)"
        )
    module, _, name = factory.partition(":")
    try:
        network = getattr(importlib.import_module(module), name)(**bundle.toml.model.arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise BundleError(f"the factory {factory} cannot be called: {error}") from None
    if not isinstance(network, nn.Module):
        raise BundleError(f"the factory {factory} made a {type(network).__name__}, expected a torch.nn.Module")
    return network
