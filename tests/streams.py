"""Streams without a server: the engine answers their requests, and each new value is committed at once."""

from dataclasses import replace

from service.storage.snapshots.format import unpack
from service.storage.snapshots.stream_files import file_of, state_for
from service.streams import engine
from service.streams.idempotency import RetryLog
from service.streams.stream import Stream
from service.streams.value import Config, first_value


def stream_of(model, spec="batch+tent", options=None, stream_id="s", **settings):
    """A stream in its initial state; `settings` are those of its configuration."""
    value = first_value(Config(model, model.fit(spec, options or {}), **settings))
    return Stream(stream_id, replace(value, retries=RetryLog(32, 2**20)))


def serve(stream, x, *, wants_source=False, every=20, step=None):
    served = engine.serve(stream.current, x, wants_source=wants_source, source_check_every=every, step=step)
    stream.current = served.value
    return served


def configure(stream, **settings):
    """Change settings of a stream, as an operator may."""
    stream.current = replace(stream.current, config=replace(stream.current.config, **settings))


def put(stream, **parts):
    """Replace parts of a stream's state."""
    stream.current = stream.current.with_state(replace(stream.current.state, **parts))


def snapshot(stream, name="kept", note="", **settings):
    return file_of(stream.id, stream.current, name, note, **settings)


def restore(stream, file):
    """Continue a stream from the file of a snapshot."""
    state = state_for(stream.id, stream.current.config, *unpack(file))
    stream.current = engine.restore(stream.current, state)
