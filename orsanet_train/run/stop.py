"""Ctrl-C, SIGTERM and SIGHUP take effect at the end of the current training step.

The saved state is therefore whole. A second signal stops the run immediately.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from orsanet_cache.console import interruption, leave_terminal, stop_signals
from orsanet_train.engine.distributed import Ranks, any_rank


class StopSignals:
    """While this context is entered, the first signal is only noted.

    Outside the main thread, where Python delivers no signals, the context has no effect. A signal
    that arrives after the last call of `asked` is raised when the context ends.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._noted: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        if self._noted is not None and kind is None:
            raise self.interrupt()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._noted is not None:
            raise interruption(number)
        if number == signal.SIGHUP:
            leave_terminal()
        self._noted = number

    def asked(self) -> bool:
        """Whether to stop.

        The result is the same on every rank; all ranks must call this at the same steps.
        """
        if any_rank(self._noted is not None, self.ranks) and self._noted is None:
            self._noted = signal.SIGTERM
        return self._noted is not None

    def stop_here(self) -> None:
        """Raise the interrupt if this rank received a signal."""
        if self._noted is not None:
            raise self.interrupt()

    def interrupt(self) -> KeyboardInterrupt:
        """The exception to raise once everything is saved."""
        return interruption(self._noted or signal.SIGINT)
