"""Model bundles on disk: model file, bundle.toml, source artefacts, and the fingerprint."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from adapters.output_kind import OutputKind
from service.errors import BundleError
from service.models.artefacts import read_artefacts
from service.support.validation_messages import sentences
from service.types import InputSpec

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FACTORY = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
MAX_TOML_BYTES = 2**20


class Table(BaseModel):
    """A table of bundle.toml; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelTable(Table):
    """[model]: the network's file and factory."""

    kind: Literal["torch", "onnx"]
    file: Annotated[str, Field(pattern=FILE)]
    factory: Annotated[str, Field(pattern=FACTORY)] | None = None
    arguments: dict[str, str | int | float | bool] = {}
    features: str = ""
    logits: str = "logits"
    output: OutputKind = "logits"

    @model_validator(mode="after")
    def _factory_belongs_to_torch(self) -> "ModelTable":
        if (self.kind == "torch") != (self.factory is not None):
            raise ValueError('kind "torch" needs a factory = "package.module:callable", kind "onnx" takes none')
        return self


class InputTable(Table):
    """[input]: the model's input."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    shape: tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    datatype: Literal["FP32"] = "FP32"
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    resize: Literal["stretch", "crop", "exact"] = "stretch"

    @model_validator(mode="after")
    def _ranges_and_channels_fit(self) -> "InputTable":
        if self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range is {self.value_range}, expected the lower value first")
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.shape[0]):
            raise ValueError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values, expected {self.shape[0]} each"
            )
        return self


class ClassesTable(Table):
    """[classes]: the names of the logits, in order."""

    names: Annotated[tuple[str, ...], Field(min_length=2)]


class BundleToml(Table):
    """The whole of bundle.toml."""

    name: Annotated[str, Field(pattern=NAME)]
    version: Annotated[str, Field(pattern=NAME)] = "1"
    description: str = ""
    licence: str
    adapter: str = "source"
    model: ModelTable
    input: InputTable
    classes: ClassesTable


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: its settings, source artefacts and fingerprint (sha256 of all that decides its outputs)."""

    path: Path
    toml: BundleToml
    artefacts: Mapping[str, Tensor]
    fingerprint: str

    @property
    def name(self) -> str:
        """The model's name on the wire."""
        return self.toml.name

    @property
    def model_file(self) -> Path:
        """The file of the weights or of the ONNX graph."""
        return self.path / self.toml.model.file

    @cached_property
    def input(self) -> InputSpec:
        """The model's input."""
        return InputSpec(**self.toml.input.model_dump())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the logits."""
        return self.toml.classes.names

    @property
    def artefacts_folder(self) -> Path:
        """The folder of the source artefacts."""
        return self.path / "artefacts"

    @property
    def artefact_names(self) -> tuple[str, ...]:
        """The names of the source artefacts, one for each file, such as `probe` or `fisher@batch@64`."""
        return tuple(sorted({name.partition(".")[0] for name in self.artefacts}))


def read_bundle(path: Path) -> Bundle:
    """Read a bundle folder.

    Raises:
        BundleError: If a file is missing, bundle.toml is invalid, or a source artefact is damaged or was made for
            another model. The message names the file, the key and the fault.
    """
    bare = read_without_artefacts(path)
    return replace(bare, artefacts=read_artefacts(bare.artefacts_folder, bare.fingerprint))


def read_without_artefacts(path: Path) -> Bundle:
    """Read a bundle folder without its source artefacts, which may belong to another model.

    Raises:
        BundleError: If a file is missing or bundle.toml is invalid. The message names the file, the key and the fault.
    """
    toml = _read_toml(path / "bundle.toml")
    file = path / toml.model.file
    if not file.is_file():
        raise BundleError(f"{path} has no file {toml.model.file!r}, which its bundle.toml names as the model")
    return Bundle(path, toml, {}, _fingerprint(toml, file))


def _read_toml(file: Path) -> BundleToml:
    try:
        if file.stat().st_size > MAX_TOML_BYTES:
            raise BundleError(f"{file} has {file.stat().st_size} bytes, expected at most {MAX_TOML_BYTES}")
        return BundleToml.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BundleError(f"{file.parent} is no bundle: it has no bundle.toml") from None
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{file} is not TOML: {error}") from None
    except ValidationError as error:
        raise BundleError(f"{file}: {sentences(error.errors())}") from None


def _fingerprint(toml: BundleToml, file: Path) -> str:
    """Hash the model file, the network's construction and the preprocessing, but not artefacts and names."""
    # The default output is left out, so that fingerprints from before the setting existed stay valid.
    default = {"output"} if toml.model.output == "logits" else set()
    decisive = {
        "model": toml.model.model_dump(exclude={"file", *default}),
        "input": toml.input.model_dump(exclude={"name"}),
        "classes": len(toml.classes.names),
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    with file.open("rb") as stream:
        digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
