"""RMT: a mean teacher that also keeps features near source prototypes and replays source images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional.augment import random_view
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.contrastive import class_means, contrastive_loss, nearest, random_projector
from adapters.functional.losses import symmetric_cross_entropy
from adapters.functional.optim import OptimOptions, OptimState
from adapters.learning.gradient_step import Learning, Passed, descend, forward_gradient, joint_gradient, start
from adapters.options import option
from adapters.source import SourceImages, SourceModel, as_inputs
from adapters.values import CopyStates, Forward, Noise, NormState, Params, PartState, Run

IMAGE_DIMENSIONS = 3
PROJECTION = 128
PROJECTOR = "projector/"
"""Prefix of the projector's weight names in a mapping that also holds the network's."""


@dataclass(frozen=True)
class RMTState(PartState):
    """Student and projector with their optimizers, the teacher's parameters by name, and () the number of steps.

    The projector has its own optimizer state, because the warm-up trains only the student.
    """

    student: Learning
    projector: Learning
    teacher: Params
    count: Tensor


@dataclass(frozen=True, kw_only=True)
class RMTOptions(OptimOptions):
    """Options of the optimizer, the teacher, the losses, and the source artefact."""

    teacher_momentum: float = option(0.999, "share of the teacher that stays at each step", low=0.0, high=1.0)
    temperature: float = option(0.1, "divides the cosines of the contrastive loss", low=0.001, high=100.0)
    lambda_target: float = option(1.0, "strength of the self-training loss", low=0.0, high=1000.0)
    lambda_contrast: float = option(1.0, "strength of the contrastive loss", low=0.0, high=1000.0)
    lambda_source: float = option(1.0, "strength of the loss on replayed source images; 0: none", low=0.0, high=1000.0)
    augment: bool = option(True, "augment the second view; else it is the image itself")
    views: int = option(
        0,
        "answer with the student's mean over the images and this many augmented views (ours); 0: student + teacher",
        low=0,
        high=256,
    )
    warm_up: int = option(1, "passes over the source images before the stream; 0: start as the source", low=0, high=100)
    replay: int = option(2000, "maximum number of source images to replay; 0: source-free", low=0, high=100_000)


class RMT(Learner[RMTState]):
    """Descend the disagreement of two views with a slow teacher, a contrastive loss and the loss on source images.

    The student sees the batch and an augmented view of it. The loss moves both towards the teacher's answer, and their
    features towards the nearest source prototype. Each batch replays as many labelled source images. All parameters
    learn. Answers with the sum of the student's and the teacher's logits from before the step; its softmax is more
    confident than either's. With `views` (ours, after CoTTA's teacher) it answers with the student's mean logits over
    augmented views: the most accurate answer of all learners on fair samples, at one more pass per view.

    Its source artefact `rmt` holds the prototypes, the projector, student and teacher after a warm-up on source images,
    and images to replay. Without images it learns source-free; without a warm-up it starts from the source weights.

    Remembers: student and teacher, all parameters each; the projector; the optimizers' moments; a count.
    Needs: gradients; the source artefact `rmt`, made from labelled images in mixed order.
    Reference: Döbler et al., Robust Mean Teacher for Continual and Gradual Test-time Adaptation, CVPR 2023.

    Example:
        >>> from adapters import create
        >>> str(create("rmt").spec), create("rmt").learner.needs.artefacts
        ('batch+rmt', ('rmt',))
    """

    name = "rmt"
    paper = "Döbler et al.: Robust Mean Teacher for Continual and Gradual Test-time Adaptation, CVPR 2023"
    remembers = "student and teacher, all parameters each; the projector; optimizer moments; a count"
    needs = Needs(gradient=True, artefacts=("rmt",))
    artefact = "rmt"
    pure_graph = False
    copies = ("student", "teacher")
    options_class = RMTOptions
    options: RMTOptions

    def check(self, source: SourceModel) -> None:
        """Refuse, in addition, inputs that are not images if views are augmented."""
        super().check(source)
        if (self.options.augment or self.options.views) and len(source.input_shape) != IMAGE_DIMENSIONS:
            raise UnfitModelError(
                f"{self.name} augments images of (channels, height, width), and this model's inputs are "
                f"{source.input_shape}; `augment=false` with `views=0` works"
            )

    def degraded(self, source: SourceModel) -> str:
        """Return notes on data that the options require and the artefact lacks."""
        notes = []
        if self.options.warm_up and "rmt.count" not in source.artefacts:
            notes.append("rmt starts as the source: its artefact was made without a warm-up")
        if self.options.lambda_source and self.options.replay and "rmt.replay.images" not in source.artefacts:
            notes.append("rmt learns source-free: its artefact holds no images to replay")
        return "; ".join(notes)

    def calibrate(
        self, net: Net, data: SourceImages, batch: int, advance: Callable[[float], None]
    ) -> Mapping[str, Tensor]:
        """Return prototypes (C, d), which classes have one (C,), the projector, both warmed-up networks, and images."""
        _check_labels(data, net.classes)
        batches = max(1, len(data.images) // batch)
        share = 1 / (batches * (1 + self.options.warm_up))

        def features() -> Iterator[tuple[Tensor, Tensor]]:
            for x, labels in data.batches(batch):
                yield net.forward({}, net.initial_norm, x).features, labels
                advance(share)

        prototypes, seen = class_means(features(), net.classes)
        projector = random_projector(prototypes.shape[1], PROJECTION, torch.Generator().manual_seed(0))
        warm = self._warmed(net, data, batch, lambda: advance(share)) if self.options.warm_up else {}
        counts = {"batch": torch.tensor(batch), "images": torch.tensor(min(len(data.images), batches * batch))}
        contrast = {"prototypes": prototypes, "seen": seen, **_within("projector", projector)}
        return {**contrast, **warm, **self._replay(data, batch), **counts}

    def init(self, net: Net, generator: torch.Generator) -> RMTState:
        """Return student and teacher after the warm-up, or equal to the source without one, and the projector."""
        weights = net.weights
        student, teacher = start(weights, self.options), weights
        if self.options.warm_up and "rmt.count" in net.artefacts:
            student, teacher = self._warm_student(net), _fitting(net, "teacher", weights)
        names = [name for name in net.artefacts if name.startswith("rmt.projector.")]
        projector = {name.removeprefix("rmt.projector."): net.artefacts[name].to(net.dtype) for name in names}
        return RMTState(student, start(projector, self.options), teacher, torch.zeros((), dtype=torch.int64))

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the seed of this step's augmentations."""
        return {"seed": step_seed(seed, steps)}

    def step(self, net: Net, state: RMTState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[RMTState]:
        """Learn from x (N, C, H, W), a view of it and replayed images; answer by student plus teacher, or by views."""
        before = norm["student"]
        teacher, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        generator = generator_of(noise["seed"])
        view = random_view(x, generator, net.value_range) if self.options.augment else x
        replayed = self._replayed(net, int(state.count), len(x))

        def run(learned: Params) -> Passed:
            params, projector = _parted(learned)
            forward, observed = net.observe(params, before, x)
            second = net.forward(params, before, view)
            contrast = self._contrast(net, forward.features, second.features, projector)
            agreement = sum(
                symmetric_cross_entropy(each.logits, teacher.logits).mean() / 2 for each in (forward, second)
            )
            loss = self.options.lambda_target * agreement + self.options.lambda_contrast * contrast
            if replayed is not None:
                source = net.forward(params, before, replayed[0])
                loss = loss + self.options.lambda_source * cross_entropy(source.logits, replayed[1])
            return Passed(loss, forward, observed, {"contrastive_loss": contrast})

        named = {f"{PROJECTOR}{name}": p for name, p in state.projector.params.items()}
        grads, losses, forward, observed = joint_gradient(net, {**state.student.params, **named}, before, run)
        of_student, of_projector = _parted(grads)
        student = descend(state.student, of_student, self.options)
        projector = descend(state.projector, of_projector, self.options)
        moved = RMTState(student, projector, self._followed(state.teacher, student.params), state.count + 1)
        answer = replace(forward, logits=forward.logits + teacher.logits)
        if self.options.views:
            answer = replace(forward, logits=self._over_views(net, state, before, x, forward, generator))
        return Learned(answer, moved, {"student": observed, "teacher": teacher_norm}, losses)

    def answer(self, run: Run, state: RMTState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) with the sum of student and teacher."""
        student, teacher = run(state.student.params, norm["student"], x), run(state.teacher, norm["teacher"], x)
        return replace(student, logits=student.logits + teacher.logits)

    def _over_views(
        self, net: Net, state: RMTState, norm: NormState, x: Tensor, forward: Forward, generator: torch.Generator
    ) -> Tensor:
        """Return the student's mean logits (N, C) over the images themselves and augmented views of them."""
        total = forward.logits
        for _ in range(self.options.views):
            view = random_view(x, generator, net.value_range)
            total = total + net.forward(state.student.params, norm, view).logits
        return total / (1 + self.options.views)

    def _contrast(self, net: Net, features: Tensor, augmented: Tensor, projector: Params) -> Tensor:
        prototypes = net.artefacts["rmt.prototypes"].to(features.dtype)
        chosen = nearest(prototypes, net.artefacts["rmt.seen"].bool(), features.detach())
        return contrastive_loss(prototypes[chosen], features, augmented, projector, self.options.temperature)

    def _followed(self, teacher: Params, student: Params) -> Params:
        keep = self.options.teacher_momentum
        return {name: keep * p + (1 - keep) * student[name] for name, p in teacher.items()}

    def _replayed(self, net: Net, count: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Return the source images and labels to replay in step number `count`, in stored order.

        There are `size` of them, or fewer if the artefact holds fewer. None if the learner is source-free.
        """
        if not self.options.lambda_source or not self.options.replay or "rmt.replay.images" not in net.artefacts:
            return None
        images = net.artefacts["rmt.replay.images"][: self.options.replay]
        size = min(size, len(images))
        begin = count % (len(images) // size) * size
        rows = slice(begin, begin + size)
        return as_inputs(images[rows], net.value_range), net.artefacts["rmt.replay.labels"][rows]

    def _replay(self, data: SourceImages, batch: int) -> dict[str, Tensor]:
        """Return the images to replay: full batches, or all images if they do not fill one."""
        count = min(self.options.replay, len(data.images))
        count = count // batch * batch or count
        return _within("replay", {"images": data.images[:count], "labels": data.labels[:count]}) if count else {}

    def _warmed(self, net: Net, data: SourceImages, batch: int, advance: Callable[[], None]) -> dict[str, Tensor]:
        """Return student, teacher and moments after the warm-up, which trains agreement at a rising learning rate."""
        student, teacher = start(net.weights, self.options), net.weights
        total = self.options.warm_up * max(1, len(data.images) // batch)
        passes = (x for _ in range(self.options.warm_up) for x, _ in data.batches(batch))
        for number, x in enumerate(passes, 1):
            student = self._warm_step(net, student, teacher, x, number / total)
            teacher = self._followed(teacher, student.params)
            advance()
        moments = student.optimizer
        tensors = {"student": student.params, "teacher": teacher, "mu": moments.mu, "nu": moments.nu}
        named = {key: p for kind, each in tensors.items() for key, p in _within(kind, each).items()}
        return {**named, "count": moments.count}

    def _warm_step(self, net: Net, student: Learning, teacher: Params, x: Tensor, share: float) -> Learning:
        target = net.forward(teacher, net.initial_norm, x).logits

        def disagreement(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            return symmetric_cross_entropy(forward.logits, target).mean(), {}

        grads, _ = forward_gradient(net, student.params, net.initial_norm, x, disagreement)
        return descend(student, grads, replace(self.options, lr=share * self.options.lr))

    def _warm_student(self, net: Net) -> Learning:
        """Return the student after the warm-up; moments from another optimizer are dropped."""
        weights = net.weights
        student = start(_fitting(net, "student", weights), self.options)
        if any(name.startswith("rmt.nu.") for name in net.artefacts) != (self.options.optimizer == "adam"):
            return student
        nu = _fitting(net, "nu", student.optimizer.nu)
        return Learning(student.params, OptimState(_fitting(net, "mu", weights), nu, net.artefacts["rmt.count"]))


def _check_labels(data: SourceImages, classes: int) -> None:
    if not len(data.labels):
        raise UnfitModelError(f"rmt needs source images with their labels; these {len(data.images)} images have none")
    least, most = int(data.labels.min()), int(data.labels.max())
    if least < 0 or most >= classes:
        raise UnfitModelError(f"rmt needs labels from 0 to {classes - 1}; these run from {least} to {most}")


def _within(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}.{name}": tensor for name, tensor in tensors.items()}


def _parted(learned: Params) -> tuple[Params, Params]:
    """Separate the network's tensors from the projector's."""
    network = {name: p for name, p in learned.items() if not name.startswith(PROJECTOR)}
    return network, {name.removeprefix(PROJECTOR): p for name, p in learned.items() if name.startswith(PROJECTOR)}


def _fitting(net: Net, kind: str, like: Params) -> Params:
    """Return the artefact's tensors of one kind, checked against the names and shapes of `like`."""
    found = {name: net.artefacts.get(f"rmt.{kind}.{name}") for name in like}
    tensors = {name: tensor.to(like[name].dtype) for name, tensor in found.items() if tensor is not None}
    for name, p in like.items():
        if name not in tensors or tensors[name].shape != p.shape:
            raise UnfitModelError(
                f"the source artefact rmt does not fit this model: {kind}.{name} is missing or has another shape"
            )
    return tensors
