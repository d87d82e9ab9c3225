"""The network that runs several streams at once; see `StreamsNet`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from adapters.network.module_net import ModuleNet
from adapters.values import Differentiable, Forward, NormState, Params, Tensors


class Together:
    """Runs the images of several streams as one batch.

    Args:
        net: The network for such batches, from `ModuleNet.of_streams`.
        images: Images per stream, as in `of_streams`.
    """

    def __init__(self, net: ModuleNet, images: int) -> None:
        self._net = net
        self._images = images

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self._net.classes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs."""
        return self._net.dtype

    @property
    def affine(self) -> dict[str, Tensor]:
        """Weight and bias (C,) of all norm layers by name: the initial values of every stream."""
        return self._net.affine

    @property
    def artefacts(self) -> Mapping[str, Tensor]:
        """The source artefacts that fit the normalizer, by plain name."""
        return self._net.artefacts

    @property
    def initial_norm(self) -> NormState:
        """The initial statistics of one stream."""
        return self._net.initial_norm

    def observe(self, params: Params, norm: NormState, x: Tensor) -> tuple[Forward, NormState]:
        """Run x (S, N, ...) as each stream's next batch; return the forward pass and the new statistics, stacked."""
        forward, after = self._net.observe(params, norm, x.flatten(0, 1))
        return self._by_stream(forward), after

    def again(self, params: Params, before: NormState, after: NormState, x: Tensor) -> Forward:
        """Run the observed batches x (s, N, ...) of some of the streams again; see `Net.again`."""
        return self._by_stream(self._net.again(params, before, after, x.flatten(0, 1)))

    def gradient(self, of_params: Differentiable, params: Params) -> tuple[Params, tuple[Tensors, ...]]:
        """Differentiate a loss at params; if the loss is a sum over streams, their gradients are independent."""
        return self._net.gradient(of_params, params)

    def _by_stream(self, forward: Forward) -> Forward:
        logits, features = (
            values.reshape(-1, self._images, values.shape[1]) for values in (forward.logits, forward.features)
        )
        return Forward(logits, features, forward.drift)
