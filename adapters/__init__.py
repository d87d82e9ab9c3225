"""The adaptation engine: pure functions over explicit state, usable in a notebook without the server."""

from adapters.adapter import Adapter, AdapterState, Prepared
from adapters.pipeline import Pipeline
from adapters.registry import create, pipeline
from adapters.source import SourceImages, SourceModel

__all__ = ["Adapter", "AdapterState", "Pipeline", "Prepared", "SourceImages", "SourceModel", "create", "pipeline"]
