"""Work that waits for a server, and is left when too little arrives.

A timeout of a connection counts from one byte to the next. A server that sends a byte now and then
would never end.
"""

from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

SLOWEST = 1_000  # bytes a second; a file of 12 MB takes three hours and a half

Result = TypeVar("Result")


class Silent(Exception):
    """Next to nothing arrived for a long time."""


@dataclass
class Arrivals:
    """What the work has got, and whether anybody still waits for it."""

    count: int = 0  # bytes
    given_up: bool = False


def watched(work: Callable[[Arrivals], Result], patience: float) -> Result:
    """The result of `work`, which counts the bytes that it gets.

    Raises Silent if less than SLOWEST bytes a second arrive within `patience` seconds, and what
    `work` raises. The work's thread is then left to end on its own: it waits for the system, and
    nothing interrupts that.
    """
    arrivals = Arrivals()
    ended: Queue[tuple[Result, None] | tuple[None, BaseException]] = Queue()

    def run() -> None:
        try:
            ended.put((work(arrivals), None))
        except BaseException as error:
            ended.put((None, error))

    Thread(target=run, name="download", daemon=True).start()
    try:
        while True:
            before = arrivals.count
            try:
                result, error = ended.get(timeout=patience)
            except Empty:
                if arrivals.count - before < SLOWEST * patience:
                    raise Silent(
                        f"the server sent {arrivals.count - before:,} bytes in {patience:.0f} s, too little to go on"
                    ) from None
                continue
            if error is not None:
                raise error
            return result  # type: ignore[return-value]  # None belongs to an error
    finally:
        arrivals.given_up = True
