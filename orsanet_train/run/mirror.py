"""A run at a URL: the run works in a folder of this machine, and a copy at the URL follows it.

    --resume:  URL ─ LIST ─▶ settings, metrics, weights ─▶ the newest whole state ─▶ folder
    training:  folder ─ after each saved state and each epoch ─▶ settings ─▶ metrics, weights
                      ─▶ a state's tensors ─▶ its numbers ─▶ older states are deleted

The names at the URL are those of the folder, so any tool copies a run from there. Only the files of
a training are sent: no evaluation, report or export. An object is put whole or not at all, and a
state counts once its numbers are there and both checksums are right.

One command at a time writes to the URL. `holder.json` has its host, process and attempt id. A new
run creates it on the condition that there is none; `--resume` takes it over, from a command that was
killed or from one that still runs. That one reads `holder.json` before it sends anything, and ends.
What it is sending meanwhile replaces only versions that it knows: each small object is put on that
condition, and large ones, which are sent in parts, are compared with what was sent when the run ends.

A thread sends, while training goes on and writes the next state; that one waits until the one before
is sent. So the newest state of a folder that is being sent stays: a folder keeps two.
"""

import hashlib
import json
import os
import re
import secrets
import socket
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from orsanet_cache.durable import is_temporary, write_whole
from orsanet_cache.errors import OrsanetError
from orsanet_cache.outputs import entries
from orsanet_cache.paths import Place, Url
from orsanet_cache.places.bucket import PART_BYTES, PARTS, Bucket
from orsanet_cache.places.files import Entry
from orsanet_cache.progress import say, warn
from orsanet_cache.reading import MAX_JSON_BYTES, MAX_SETTINGS_BYTES, json_of, read_limited
from orsanet_cache.store.recipe import recipe_differences
from orsanet_train.config import parse_config
from orsanet_train.engine.distributed import Ranks, from_main
from orsanet_train.run.folder import RUN, SETTINGS, STATES
from orsanet_train.run.state import NUMBERS, TENSORS, newest_position, receive_state

HOLDER = "holder.json"
WHOLE_BYTES = PARTS * PART_BYTES  # a larger file is sent in parts
TRIES = 8  # to read or write what an earlier holder is still writing
_FILE = re.compile(r"(tensorboard/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
_STATE_FILE = re.compile(rf"{STATES}/((\d{{8,}})-(\d{{6,}}))/({re.escape(TENSORS)}|{re.escape(NUMBERS)})", re.ASCII)


class Copied(NamedTuple):
    """A run folder and what becomes of it."""

    resume: bool  # whether the folder has a run to go on with
    # Called on the main rank when files of the folder have changed, with whether to wait until they are sent.
    keep: Callable[[bool], object]


@contextmanager
def copied(place: Place, folder: Path, resume: bool, ranks: Ranks) -> Iterator[Copied]:
    """Keep a copy of a run folder at its place, if that is a URL. Only the main rank makes requests.

    Raises OrsanetError on all ranks if there is no run to resume, or one that is not to be resumed.
    """
    if not isinstance(place, Url):
        yield Copied(resume, lambda _wait: None)
        return
    with ExitStack() as stack:
        mirrors: list[Mirror] = []

        def begin() -> bool:
            mirrors.append(stack.enter_context(_held(Mirror(Bucket.open(place), folder))))
            return mirrors[0].begin(resume)

        resumes = from_main(begin, ranks)
        if not mirrors:
            yield Copied(resumes, lambda _wait: None)
            return
        sending = stack.enter_context(Sending(mirrors[0].update))
        yield Copied(resumes, sending.keep)
        sending.wait()
        mirrors[0].finish()


class Sending:
    """Calls `update` in a thread, once at a time. A context manager; it ends after the last call."""

    def __init__(self, update: Callable[[], object]) -> None:
        self._update = update
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._under_way: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def keep(self, wait: bool) -> None:
        """Call `update` when its last call has ended, whose exception is raised; and wait if asked to."""
        self.wait()
        self._under_way = self._thread.submit(self._update)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait for the last call, and raise its exception."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()


@contextmanager
def _held(mirror: "Mirror") -> Iterator["Mirror"]:
    """Give up the claim of the URL in the end, unless the requests fail or another command has it."""
    try:
        yield mirror
    finally:
        if mirror.is_held:
            with suppress(OrsanetError, OSError):
                mirror.release()


class Mirror:
    """The copy of a run folder at a URL."""

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self.bucket = bucket
        self.folder = folder
        self.is_held = False  # whether the claim is this command's, and the last requests went well
        self._claim = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "attempt": secrets.token_hex(8),
            }
        ).encode()
        self._known: dict[str, Entry] = {}  # the objects of the run as this command found or put them
        self._sent: dict[str, tuple[int, ...]] = {}  # files of the folder that equal them, by inode, size and time

    def begin(self, resume: bool) -> bool:
        """Claim the URL, and bring the run from there if it is ahead of the folder. Returns whether there is a run.

        Raises OrsanetError, and changes nothing, unless this is a new run at a new place, or
        `resume` is set and there is a run at the URL or in the folder.
        """
        there, holder = self._listed(), self._holder()
        if resume:
            if RUN not in there and holder is None and not (self.folder / RUN).exists():
                raise OrsanetError(f"{self.bucket.url}: no run to resume (no {RUN} there); start it without --resume")
        elif there:
            raise OrsanetError(f"{self.bucket.url}: already exists; continue with --resume, or choose another --out")
        elif holder is not None:
            raise OrsanetError(
                f"{self.bucket.url}: {_told(holder)} has begun a run there; if that command has ended, go on with --resume"
            )
        self._take(holder)
        for _ in range(TRIES):
            self._known, self._sent = self._listed(), {}
            try:
                if RUN in self._known:
                    self._bring()
                return (self.folder / RUN).exists()
            except (FileNotFoundError, _Replaced):  # by an earlier holder, which ends at its next upload
                continue
        raise OrsanetError(f"{self.bucket.url}: another command keeps writing there; end it, and go on with --resume")

    def update(self) -> None:
        """Send what is new in the folder, and then delete the states that the folder no longer has.

        Raises OrsanetError if another command has taken the run over. The folder keeps everything.
        """
        self.is_held = False  # until all went well
        self._check_claim()
        names = self._names()
        sent = [name for name in names if self._send_if_there(name)]
        if any(_STATE_FILE.fullmatch(name) for name in sent):
            old = [name for name in self._known if _STATE_FILE.fullmatch(name) and name not in names]
            for file in (NUMBERS, TENSORS):  # a state without numbers is none
                self.bucket.delete(name for name in old if name.endswith(file))
            for name in old:
                del self._known[name]
                self._sent.pop(name, None)
        self.is_held = True

    def finish(self) -> None:
        """Send the rest, and compare what is there with what was sent: a command that was taken over may have replaced it."""
        self.update()
        self.is_held = False
        for _ in range(TRIES):
            there = self._listed()
            wrong = [name for name in self._sent if there.get(name) != self._known[name]]
            if not wrong:
                self.is_held = True
                return
            self._check_claim()
            self._known.update((name, there[name]) for name in wrong if name in there)
            for name in wrong:
                if name not in there:
                    del self._known[name]
                del self._sent[name]
            self.update()
        raise OrsanetError(f"{self.bucket.url}: another command keeps writing there; end it, and go on with --resume")

    def release(self) -> None:
        """Give up the claim."""
        if self.bucket.read(HOLDER)[0] == self._claim:
            self.bucket.delete([HOLDER])

    def _take(self, holder: bytes | None) -> None:
        """Write the claim; `holder` is the one to replace."""
        if holder is not None:
            say(f"{self.bucket.url}: {_told(holder)} wrote there last and has not ended in order; taken over")
            self.bucket.write(HOLDER, self._claim)
        elif not self.bucket.create(HOLDER, self._claim):
            raise OrsanetError(
                f"{self.bucket.url}: {_told(self._holder())} has just begun to write there; let it finish, or choose another --out"
            )
        elif self.bucket.create(HOLDER, b"{}"):
            self.bucket.delete([HOLDER])
            raise OrsanetError(
                f"{self.bucket.url}: the object store ignores conditions of a PUT (If-None-Match), so that two commands could write "
                f"the same run; train into a folder and copy it"
            )
        self.is_held = True

    def _holder(self) -> bytes | None:
        try:
            return self.bucket.read(HOLDER, MAX_JSON_BYTES)[0]
        except FileNotFoundError:
            return None

    def _check_claim(self) -> None:
        holder = self._holder()
        if holder is None and self.bucket.create(HOLDER, self._claim):  # an earlier holder has deleted it
            return
        if holder != self._claim:
            raise OrsanetError(
                f"{self.bucket.url}: {_told(holder or self._holder())} has taken over this run; this command ends, and what it has "
                f"trained is in {self.folder}"
            )

    def _listed(self) -> dict[str, Entry]:
        """The objects at the URL, without the claim."""
        return {name: entry for name, entry in self.bucket.entries().items() if name != HOLDER}

    def _bring(self) -> None:
        """Bring the run at the URL into the folder, unless the folder has the same run with a state that is as new."""
        settings, data = self._read(SETTINGS, MAX_SETTINGS_BYTES), self._read(RUN, MAX_JSON_BYTES)
        if (self.folder / RUN).exists():
            self._check_same(settings, data)
        elif foreign := [name for name in entries(self.folder) if name != SETTINGS and not is_temporary(name)]:
            raise OrsanetError(
                f"{self.folder / foreign[0]}: this folder, in which the run at {self.bucket.url} is to go on, has other files; "
                f"choose another --work"
            )
        states = self._states()
        local = newest_position(self.folder / STATES)
        if (self.folder / RUN).exists() and local >= max(states, default=(-1, -1)):
            return
        self._write(SETTINGS, settings)
        self._write(RUN, data)  # a kill from here on leaves a folder that is older than the URL, which is brought again
        for name in (name for name in self._known if _FILE.fullmatch(name) and name not in (SETTINGS, RUN)):
            self._write(name, self._read(name))
        for position, state in sorted(states.items(), reverse=True):
            if position <= local:
                break
            files = {file: self._read(f"{STATES}/{state}/{file}") for file in (TENSORS, NUMBERS)}
            if receive_state(self.folder / STATES, state, files):
                self._sent.update((name, self._stamp(name)) for name in (f"{STATES}/{state}/{file}" for file in files))
                break
            warn(f"warning: {self.bucket.url / STATES / state}: damaged; looking for the state before")
        say(f"{self.bucket.url}: brought to {self.folder}")

    def _check_same(self, settings: bytes, data: bytes) -> None:
        """Raises OrsanetError if the folder has another run than the URL."""
        try:
            there = parse_config(tomllib.loads(settings.decode()), str(self.bucket.url / SETTINGS)).model_dump(
                mode="json"
            )
            here_text = read_limited(self.folder / SETTINGS, MAX_SETTINGS_BYTES).decode()
            here = parse_config(tomllib.loads(here_text), str(self.folder / SETTINGS)).model_dump(mode="json")
            of_url, of_folder = json_of(data), json_of(read_limited(self.folder / RUN, MAX_JSON_BYTES))
            both = of_url.keys() & of_folder.keys()  # a later version records more
            differences = [
                *recipe_differences({**here, "epochs": there["epochs"]}, there),
                *recipe_differences({key: of_folder[key] for key in both}, {key: of_url[key] for key in both}),
            ]
        except (OSError, ValueError, AttributeError) as error:
            raise OrsanetError(
                f"{self.folder}: cannot be compared with the run at {self.bucket.url} ({error}); choose another --work"
            ) from error
        if differences:
            raise OrsanetError(f"{self.folder}: has another run than {self.bucket.url}; choose another --work")

    def _states(self) -> dict[tuple[int, int], str]:
        """The states of which both files are at the URL, by position."""
        found: dict[tuple[int, int], set[str]] = {}
        names = {}
        for name in self._known:
            if match := _STATE_FILE.fullmatch(name):
                position = int(match[2]), int(match[3])
                names[position] = match[1]
                found.setdefault(position, set()).add(match[4])
        return {position: names[position] for position, files in found.items() if files == {TENSORS, NUMBERS}}

    def _read(self, name: str, limit: float = float("inf")) -> bytes:
        """An object's content. Raises an exception if it is not the one that was listed."""
        try:
            content, entry = self.bucket.read(name, limit)
        except ValueError as error:
            raise OrsanetError(f"{error}; it is not a run's") from error
        if entry != self._known.get(name):
            raise _Replaced
        return content

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, lambda temporary: temporary.write_bytes(content))
        self._sent[name] = self._stamp(name)

    def _names(self) -> list[str]:
        """The files of the run in the folder, in the order in which they are sent."""
        # Not rglob, which fails where training deletes a state meanwhile.
        paths = (Path(root) / name for root, _, names in os.walk(self.folder) for name in names)
        found = (path.relative_to(self.folder).as_posix() for path in paths)
        wanted = [name for name in found if _FILE.fullmatch(name) or _STATE_FILE.fullmatch(name)]
        return sorted(wanted, key=_order)

    def _stamp(self, name: str) -> tuple[int, ...]:
        status = (self.folder / name).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _send_if_there(self, name: str) -> bool:
        """As `_send`; False for a file of a state that training has deleted meanwhile."""
        try:
            return self._send(name)
        except FileNotFoundError:
            if (self.folder / name).exists():
                raise
            return False

    def _send(self, name: str) -> bool:
        """Put a file that is not there yet, or has changed. Returns whether it was put."""
        stamp = self._stamp(name)
        if self._sent.get(name) == stamp:
            return False
        if stamp[1] > WHOLE_BYTES:
            if name in self._known and self.bucket.entry(name) != self._known[name]:
                self._check_claim()
            self._known[name] = self.bucket.write_file(name, self.folder / name)
        elif not self._send_whole(name, (self.folder / name).read_bytes()):
            self._sent[name] = stamp
            return False
        self._sent[name] = stamp
        return True

    def _send_whole(self, name: str, content: bytes) -> bool:
        """Put a small file in place of the version that is known. Returns False if that one is the same."""
        if self._known.get(name) == Entry(len(content), hashlib.md5(content, usedforsecurity=False).hexdigest()):
            return False
        for _ in range(TRIES):
            if (entry := self.bucket.replace(name, content, self._known.get(name))) is not None:
                self._known[name] = entry
                return True
            self._check_claim()  # so an earlier holder has put it, which ends at its next upload
            there = self.bucket.entry(name)
            if there is None:
                self._known.pop(name, None)
            else:
                self._known[name] = there
        raise OrsanetError(
            f"{self.bucket.url / name}: another command keeps writing it; end it, and go on with --resume"
        )


class _Replaced(Exception):
    """An object is not the one that was listed."""


def _order(name: str) -> tuple[int, str, bool]:
    """The settings, then results, then states, the newest last, each with its numbers last."""
    state = _STATE_FILE.fullmatch(name)
    if state is None:
        return int(name not in (SETTINGS, RUN)), name, False
    return 2, state[1].rjust(64), state[4] == NUMBERS


def _told(holder: bytes | None) -> str:
    """Who holds a run, from holder.json."""
    try:
        values: Any = json_of(holder or b"")
        host, process, since = (str(values[key])[:64] for key in ("host", "process", "since"))
        return f"{host}, process {process}, since {since},"
    except (ValueError, LookupError, TypeError):
        return f"another command (its {HOLDER} cannot be read)"
