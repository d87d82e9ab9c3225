"""RoTTA: a student that learns from its slow teacher on a balanced memory of recent images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.base import Learned, Learner, Needs, Net
from adapters.errors import UnfitModelError
from adapters.functional import category_memory
from adapters.functional.augment import random_view
from adapters.functional.category_memory import CategoryMemory, Scoring
from adapters.functional.chance import generator_of, step_seed
from adapters.functional.entropy import entropy_above_floor
from adapters.functional.optim import OptimOptions
from adapters.functional.places import recall, spans
from adapters.learning.gradient_step import Learning, descend, observe_gradient, start
from adapters.options import option
from adapters.source import SourceModel, as_stored
from adapters.values import CopyStates, Forward, Noise, Params, PartState, Run


@dataclass(frozen=True)
class RoTTAState(PartState):
    """The student with its optimizer, the teacher's weight and bias by name, and the memory."""

    student: Learning
    teacher: Params
    memory: CategoryMemory


@dataclass(frozen=True, kw_only=True)
class RoTTAOptions(OptimOptions):
    """The optimizer, the memory, the teacher and the augmentation."""

    capacity: int = option(64, "images that the memory holds", low=1, high=1024)
    period: int = option(64, "images from one update to the next", low=1, high=1024)
    nu: float = option(0.001, "share of the student in the teacher at each update", low=0.0, high=1.0)
    age_weight: float = option(1.0, "weight of an image's age in what the memory drops", low=0.0, high=100.0)
    entropy_weight: float = option(1.0, "weight of its entropy in what the memory drops", low=0.0, high=100.0)
    augment: bool = option(True, "whether the student learns from augmented images")
    observe_stream: bool = option(
        False, "let the teacher's statistics follow the stream too, not the memory alone, as public code does"
    )


class RoTTA(Learner[RoTTAState]):
    """Descend the cross-entropy of the student with the teacher's answer on a memory; answer with the teacher.

    The memory gives every predicted class equal room and drops what is old and unsure; recent images weigh more in the
    loss. Statistics move by the memory alone: the teacher observes its images as they came, the student augmented
    ones. A batch is answered before the updates that fall within it. Slow by design: the statistics are renewed after
    thousands of images. Where public code has dropout active in updates, it is off here. Under UnMix-TNS public code
    moves the components in the answering passes too: `observe_stream`, the default there, does so. Not augmented, a
    student that still equals its teacher has a zero gradient, which Adam turns into noise.

    Remembers: student and teacher, weight and bias of the norm layers each; the optimizer's moments; images.
    Needs: norm layers with weight and bias.
    Reference: Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023 (section 3).

    Example:
        >>> from adapters import create
        >>> str(create("rotta").spec), create("unmix_tns+rotta").learner.options.lr
        ('rotta_bn+rotta', 1e-05)
    """

    name = "rotta"
    paper = "Yuan et al.: Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023"
    remembers = "student and teacher, weight and bias of the norm layers each, with optimizer moments; 64 images"
    needs = Needs(affine=True, gradient=True)
    normalizer = "rotta_bn"
    pure_graph = False
    holds_inputs = True
    copies = ("student", "teacher")
    options_class = RoTTAOptions
    options: RoTTAOptions

    def check(self, source: SourceModel) -> None:
        """Refuse also inputs that are no images, which cannot be augmented."""
        super().check(source)
        if self.options.augment and len(source.input_shape) != 3:
            raise UnfitModelError(
                f"rotta augments images (C, H, W) and this model's inputs are {source.input_shape}; augment=false works"
            )

    def init(self, net: Net, generator: torch.Generator) -> RoTTAState:
        """Return student and teacher as the source, zero moments and an empty memory."""
        memory = category_memory.empty(self.options.capacity, net.input_shape, net.dtype)
        return RoTTAState(start(net.affine, self.options), net.affine, memory)

    def without_inputs(self, state: RoTTAState) -> RoTTAState:
        """Return the state with its memory as before the first image."""
        return replace(state, memory=category_memory.emptied(state.memory))

    def draw(self, seed: int, steps: int, shape: torch.Size) -> Noise:
        """Draw the seed of this step's augmentations."""
        return {"seed": step_seed(seed, steps)}

    def step(self, net: Net, state: RoTTAState, norm: CopyStates, x: Tensor, noise: Noise) -> Learned[RoTTAState]:
        """Answer x (N, C, H, W), remember its images, and learn whenever a period is full."""
        generator = generator_of(noise["seed"])
        forward, norm = self._answered(net, state, norm, x)
        finite = forward.logits.isfinite().all(1)  # what has no answer has no class to be remembered under
        images, logits = as_stored(x[finite], net.value_range), forward.logits[finite]
        labels, entropies = logits.argmax(1), entropy_above_floor(logits)
        scoring = Scoring(net.classes, self.options.age_weight, self.options.entropy_weight)
        signals: dict[str, Tensor] = {}
        for rows, due in spans(int(state.memory.places.arrived), len(images), self.options.period):
            offered = images[rows], labels[rows], entropies[rows]
            state = replace(state, memory=category_memory.insert(state.memory, *offered, scoring))
            if due:
                state, norm, signals["loss"] = self._update(net, state, norm, generator)
        return Learned(forward, state, norm, {**signals, "memory_ratio": state.memory.places.filled})

    def answer(self, run: Run, state: RoTTAState, norm: CopyStates, x: Tensor) -> Forward:
        """Answer x (N, ...) by the teacher."""
        return run(state.teacher, norm["teacher"], x)

    def _answered(self, net: Net, state: RoTTAState, norm: CopyStates, x: Tensor) -> tuple[Forward, CopyStates]:
        if not self.options.observe_stream:
            return self.answer(net.held, state, norm, x), norm
        forward, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        return forward, {**norm, "teacher": teacher_norm}

    def _update(
        self, net: Net, state: RoTTAState, norm: CopyStates, generator: torch.Generator
    ) -> tuple[RoTTAState, CopyStates, Tensor]:
        """Move the student by the memory, and the teacher towards the student; return the loss () too."""
        x = recall(state.memory.places, net.value_range).to(net.dtype)
        weights = category_memory.timeliness(state.memory)
        target, teacher_norm = net.observe(state.teacher, norm["teacher"], x)
        view = random_view(x, generator, net.value_range) if self.options.augment else x

        def timely_cross_entropy(forward: Forward) -> tuple[Tensor, Mapping[str, Tensor]]:
            each = -(target.logits.softmax(1) * forward.logits.log_softmax(1)).sum(1)
            loss = (weights * each).mean()
            return loss, {"loss": loss}

        params = state.student.params
        grads, other, _, student_norm = observe_gradient(net, params, norm["student"], view, timely_cross_entropy)
        student, nu = descend(state.student, grads, self.options), self.options.nu
        teacher = {name: (1 - nu) * p + nu * student.params[name] for name, p in state.teacher.items()}
        norms = {"student": student_norm, "teacher": teacher_norm}
        return replace(state, student=student, teacher=teacher), norms, other["loss"]
