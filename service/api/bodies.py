"""Request bodies of the control plane."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from service.models.bundle import NAME
from service.monitoring.guard import Policy
from service.types import LARGEST_BATCH, MAX_NOTE, Durability, Mode

Name = Annotated[str, Field(pattern=NAME)]
MAX_SPEC = 256
MAX_ENTRIES = 64


def check_few(value: Any) -> Any:
    """Refuse an object with very many entries as a whole, since each entry could cause an error of its own."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries were given, at most {MAX_ENTRIES} are expected")
    return value


Few = BeforeValidator(check_few)
PartOptions = Annotated[dict[str, str | int | float | bool | None], Few]
Options = Annotated[dict[str, PartOptions | StrictInt], Few]
Guard = Annotated[Policy, Few]


class Body(BaseModel):
    """A request body. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return check_few(value)


class StreamCreate(Body):
    """A stream to create. Omitted fields take the model's defaults."""

    id: Name | None = None
    """The stream's name; without one the server makes one up."""
    model: str | None = Field(default=None, max_length=128)
    """The model's name; required if the server has several models."""
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    """The spec, such as `unmix_tns+eta+lame`."""
    options: Options = {}
    """Options by part name, `seed`, and `precision` (float32, or bfloat16 if the processor supports it):
    {"tent": {"lr": 1e-4}, "seed": 7}."""
    guard: Guard = Policy()
    """The guard's policy: its action on each finding of the monitors."""
    mode: Mode = "adapt"
    """adapt: learn from every batch. frozen: answer from the present state. shadow: answer as the source model, and
    learn without effect on the answers."""
    durability: Durability | None = None
    """ephemeral: in memory only. periodic: saved every few steps or seconds. sync: saved before each answer."""
    adapt_batch_size: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    """Images in one adaptation step. Smaller requests are answered at once, and their images wait in the window."""
    idempotent: bool = False
    """Refuse a request id that comes with another body (409). Otherwise it is a new request."""


class StreamPatch(Body):
    """Changes to a stream. A new adapter starts from its initial state; all other changes keep the learned state."""

    mode: Mode | None = None
    adapter: str | None = Field(default=None, min_length=1, max_length=MAX_SPEC)
    options: Options | None = None
    guard: Guard | None = None
    adapt_batch_size: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    durability: Durability | None = None
    idempotent: bool | None = None


class SnapshotCreate(Body):
    """A snapshot to take."""

    name: Name | None = None
    note: str = Field(default="", max_length=MAX_NOTE)
    inputs: Literal["keep", "drop"] = "keep"
    """Keep or drop the images that wait in the window. Without them the snapshot does not replay exactly."""


class Restore(Body):
    """The snapshot to continue from."""

    snapshot: str = Field(max_length=128)


class FeedbackItem(Body):
    """The true labels of one earlier request."""

    request: str = Field(min_length=1, max_length=256)
    """The request's id, as in its answer."""
    labels: Annotated[list[str | StrictInt], Field(min_length=1, max_length=4096, fail_fast=True)]
    """One label for each image: a class's name or number."""


class FeedbackGiven(Body):
    """Late labels for earlier requests of a stream."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=1000, fail_fast=True)]
