"""A store that fails at one chosen step of what is done to it, once: before the step happens, or after."""

import threading
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from service.errors import StoreDownError


class Faults:
    """Counts the steps that an application's store takes, and fails the one that it is armed for.

    Steps are the SQL statements, the moments before and after each commit, and those before and after each call of the
    blobs. Events are written beside all this, and are left alone.
    """

    def __init__(self, checkpoints, database):
        self._database, self._lock = database, threading.Lock()
        self._armed, self._count = None, 0
        self.fired = ""
        checkpoints.blobs = FailingBlobs(checkpoints.blobs, self)

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


class FailingBlobs:
    """Blobs whose calls are steps."""

    def __init__(self, blobs, faults):
        self._blobs, self._faults = blobs, faults

    def __getattr__(self, name):
        call = getattr(self._blobs, name)

        def step(*arguments):
            self._faults.step(f"before {name}", StoreDownError("the object store does not answer"))
            result = call(*arguments)
            self._faults.step(f"after {name}", StoreDownError("the object store does not answer"))
            return result

        return step


@contextmanager
def faults_of(api):
    """Make an application's store one that fails when told to, until the block ends."""
    checkpoints = api.app.state.residence._keeper.checkpoints
    engine = checkpoints.catalogue._engine
    blobs, commit = checkpoints.blobs, engine.dialect.do_commit
    faults = Faults(checkpoints, engine)

    def committing(connection):
        faults.sql("before commit")
        commit(connection)
        faults.sql("after commit")

    event.listen(engine, "before_cursor_execute", faults.statement)
    engine.dialect.do_commit = committing
    try:
        yield faults
    finally:
        event.remove(engine, "before_cursor_execute", faults.statement)
        engine.dialect.do_commit = commit
        checkpoints.blobs = blobs
