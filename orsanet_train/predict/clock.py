"""The time of each frame of a video."""

import math
from collections import deque
from statistics import median

FASTEST = 300  # frames a second; a file that states more states the unit of its time stamps
USUAL_RATE = 25.0  # frames a second, of a video that states none; FFmpeg supposes the same
DISORDER = 16  # frames that may have each other's time stamps; codecs reorder at most as many


class Clock:
    """The time of each frame of a video, by its time stamps, because phones film at a varying rate.

    Time never runs back. Where a stamp is not later than the one before, as in files that were
    joined or have no stamps, time goes on by one frame and continues with the stamps from there.
    If the stamps then leap ahead of all before, only a few frames had each other's stamps: time
    continues as if they had not.
    """

    def __init__(self, rate: float) -> None:
        self.time = 0.0  # of the present frame, seconds
        self._stated = 1 / rate if 0 < rate <= FASTEST else math.inf  # seconds a frame
        self._steps: deque[float] = deque(maxlen=DISORDER)  # between the last frames that were in order
        self._stamp = -math.inf  # of the present frame
        self._offset = 0.0  # from stamps to times
        self._before = (math.inf, 0.0, 0)  # the largest stamp and the offset before stamps ran back, and frames since

    @property
    def step(self) -> float:
        """Seconds from a frame to the next: the usual step, as some files state fields and not frames.

        A usual step of many frames is one of stamps in disorder, and then the stated rate is right.
        """
        usual = median(self._steps) if self._steps else math.inf
        step = usual if usual <= 2.5 * self._stated else self._stated
        return step if math.isfinite(step) else 1 / USUAL_RATE

    def tick(self, stamp: float) -> bool:
        """Go on to the next frame. Returns whether its stamp is later than the one before.

        `stamp` is in seconds.
        """
        if not math.isfinite(stamp):
            stamp = self._stamp
        if self._stamp == -math.inf:
            self._stamp = stamp if math.isfinite(stamp) else 0.0
            self._offset = max(0.0, -self._stamp)
            self.time = self._stamp + self._offset
            return True
        largest, offset, frames = self._before
        in_order = stamp > self._stamp
        if not in_order:
            if frames > DISORDER or largest == math.inf:
                self._before = (self._stamp, self._offset, 0)
            self._offset = self.time + self.step - stamp
        elif frames <= DISORDER and stamp > largest and stamp - self._stamp > 1.5 * min(self.step, self._stated):
            self._before = (math.inf, 0.0, 0)
            self._offset = offset
        else:
            self._steps.append(stamp - self._stamp)
        largest, offset, frames = self._before
        self._before = (largest, offset, frames + 1)
        ahead = stamp + self._offset
        in_order = in_order and ahead > self.time
        self.time, self._stamp = max(self.time, ahead), stamp
        return in_order
