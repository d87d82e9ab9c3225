"""The adaptation engine: pure functions over explicit state, usable in a notebook without the server."""

from adapters.pipeline import Adapter, AdapterState, Prepared
from adapters.registry import create
from adapters.source import SourceImages, SourceModel

__all__ = ["Adapter", "AdapterState", "Prepared", "SourceImages", "SourceModel", "create"]
