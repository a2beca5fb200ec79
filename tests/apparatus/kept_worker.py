"""A process for backends that serves one test after another: to start one takes longer than most tests do in it."""

from kpref.oracle.isolation import Worker

__all__ = ["KeptWorker"]


class KeptWorker(Worker):
    """A `Worker` that outlives those who stop theirs, unless its backend hung or crashed; `end` ends it."""

    def importing_from(self, path):
        """This one; it imports from these places, if it has not been started yet."""
        if self._process is None:
            self._path = list(path)
        return self

    def stop(self):
        """See `Worker.stop`: another test has it next."""

    def end(self):
        super().stop()

    def _exchange(self, *conversation):
        try:
            return super()._exchange(*conversation)
        except BaseException:  # the process is no more
            self.end()
            raise
