"""A store that fails at one chosen step of what is done to it, once: before the step happens, or after."""

import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from service.errors import StoreDownError


class Faults:
    """Counts the steps that an application's store takes, and fails the one that it is armed for.

    Steps are the SQL statements, the moments before and after each commit, and those before and after each call of the
    blobs. Events are written beside all this, and are left alone.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._armed, self._count = None, 0
        self.fired = ""

    def arm(self, number):
        """Fail at the step of this number from now on, counted from 0."""
        self._armed, self._count, self.fired = number, 0, ""

    def disarm(self):
        """Fail no more; return the step that failed, or ""."""
        self._armed = None
        return self.fired

    def step(self, name, error):
        """Take a step, or fail at it."""
        if threading.current_thread().name == "event-log":
            return
        with self._lock:
            due, self._count = self._armed == self._count, self._count + 1
            if not due:
                return
            self._armed, self.fired = None, name
        raise error

    def sql(self, name):
        """Take a step of the database."""
        self.step(name, OperationalError(name, None, Exception("the connection broke")))

    def statement(self, _connection, _cursor, statement, *_rest):
        """Take the step of a statement."""
        self.sql(" ".join(statement.split()[:3]))

    def blobs(self, name, call):
        """Return a call of the blobs that is two steps more."""
        down = StoreDownError("the object store does not answer")

        def stepping(*arguments):
            self.step(f"before {name}", down)
            result = call(*arguments)
            self.step(f"after {name}", down)
            return result

        return stepping


@contextmanager
def faults_of(api):
    """Make an application's store one that fails when told to, until the block ends."""
    checkpoints = api.app.state.services.residence._keeper.checkpoints
    engine, blobs = checkpoints.catalogue._engine, type(checkpoints.blobs)  # the snapshots' blobs are of this class too
    commit, faults = engine.dialect.do_commit, Faults()

    def committing(connection):
        faults.sql("before commit")
        commit(connection)
        faults.sql("after commit")

    event.listen(engine, "before_cursor_execute", faults.statement)
    engine.dialect.do_commit = committing
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "get", "delete", "names"):
            patch.setattr(blobs, name, faults.blobs(name, getattr(blobs, name)))
        try:
            yield faults
        finally:
            event.remove(engine, "before_cursor_execute", faults.statement)
            engine.dialect.do_commit = commit
