"""The exceptions that end a command with a sentence: mistakes of the user, and shortages of the system.

An OrsanetError is a mistake that the user can fix. A ShortageError is a lack of open files, memory or
threads. It says nothing about the files that were being read: code that takes an exception for
damage, or goes on after it, calls `refuse_shortage` first. Any other exception that escapes is a bug
and keeps its traceback.
"""

import errno
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_AGAIN = "and run the same command again"
_FILES = f"allow more with `ulimit -n 4096`, {_AGAIN}"
_MEMORY = f"end other programs, or allow this one more (`ulimit -v`, the job's limit), {_AGAIN}"
_NUMBERS = {
    errno.EMFILE: ("too many open files in this process", _FILES),
    errno.ENFILE: ("too many open files on this machine", f"end other programs, {_AGAIN}"),
    errno.ENOMEM: ("too little memory", _MEMORY),
}
# Of libraries that raise their own types only the text is left.
_TEXTS = (
    (re.compile("Too many open files"), _NUMBERS[errno.EMFILE]),
    (
        re.compile(
            "(can't|cannot|failed to) allocate|failed to map segment|out of memory|(not enough|insufficient) memory|bad_alloc",
            re.IGNORECASE,
        ),
        _NUMBERS[errno.ENOMEM],
    ),
    (re.compile("can't start new thread"), ("too many threads", f"allow more with `ulimit -u`, {_AGAIN}")),
)


MOST_NAMES, LONGEST_NAME = 1000, 100  # to look for a near name in: a table may have 20,000 classes
BEGINNING = 3  # characters that count as the beginning of a name


class OrsanetError(Exception):
    """A mistake that the user can fix. The message states what is wrong, where, and what to do."""


class UnreachableError(OrsanetError, OSError):
    """A place of files does not answer, or refuses: an object store. It says nothing about the files.

    The arguments are an error number and one sentence. Like a shortage it is never taken for damage:
    `refuse_shortage` raises it again.
    """

    def __str__(self) -> str:
        return str(self.args[-1])


def listed(findings: list[str], limit: int = 20) -> str:
    """Findings as indented lines. Those beyond `limit` are counted instead of shown."""
    shown = [f"  {finding}" for finding in findings[:limit]]
    if len(findings) > limit:
        shown.append(f"  … and {len(findings) - limit} more")
    return "\n".join(shown)


def few(names: Collection[str], limit: int = 3) -> str:
    """The first `limit` names, and the number of further ones, as text.

    Takes the same time for a million names as for a few.
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(islice(names, limit)) + more


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that `name` was probably meant to be; None if it is one of them, or resembles none.

    A name of which `name` is the beginning goes before others.
    """
    known = {each.lower(): each for each in islice(names, MOST_NAMES) if len(each) <= LONGEST_NAME}
    if name in known.values() or len(name) > LONGEST_NAME:
        return None
    begun = [each for each in known if len(name) >= BEGINNING and each.startswith(name.lower())]
    near = sorted(begun, key=len) or get_close_matches(name.lower(), known, n=1)
    return known[near[0]] if near else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a question with the nearest of the known names, or nothing."""
    near = nearest(name, names)
    return "" if near is None else f"; did you mean '{near}'?"


def validation_findings(error: "ValidationError", model: "type[BaseModel] | None" = None) -> list[str]:
    """pydantic's findings, one short sentence each: where, what, and the value found.

    `model` is the class that was validated; an unknown key is answered with the nearest of its keys.
    """
    findings = []
    for item in error.errors():
        place, member = _untagged(item["loc"], model)
        where = ".".join(place) or "top level"
        if item["type"] == "extra_forbidden":
            findings.append(f"{where}: unknown key{'' if model is None else _near_key(where, model, member)}")
            continue
        if item["type"] == "union_tag_invalid":
            known = re.findall("'([^']*)'", item["ctx"]["expected_tags"])
            key, met = item["ctx"]["discriminator"].strip("'"), item["ctx"]["tag"]
            findings.append(f"{where}.{key}: '{met}' is none of {', '.join(known)}{did_you_mean(met, known)}")
            continue
        met = "" if item["type"] == "missing" else f" (got {reprlib.repr(item['input'])})"
        findings.append(f"{where}: {item['msg']}{met}")
    return findings


def _untagged(
    loc: tuple[int | str, ...], model: "type[BaseModel] | None"
) -> tuple[list[str], "type[BaseModel] | None"]:
    """Where a finding is, and the class that the file chose if it lies in a table of several kinds.

    pydantic names the kind of such a table after the table; no file has that part of the key.
    """
    first, *rest = loc or ("",)
    field = None if model is None else model.model_fields.get(str(first))
    if not rest or field is None or not isinstance(field.discriminator, str):
        return [str(part) for part in loc], None
    kind, *rest = rest
    members = (each for each in _classes(field.annotation) if each.model_fields[field.discriminator].default == kind)
    return [str(part) for part in (first, *rest)], next(members, None)


def _near_key(unknown: str, model: "type[BaseModel]", member: "type[BaseModel] | None") -> str:
    """As did_you_mean. The last part of the key is compared, and the key may belong into another table."""
    table, _, leaf = unknown.rpartition(".")
    # The own table's overwrite others.
    keys = sorted(_keys(model, member), key=lambda key: key.rpartition(".")[0] == table)
    whole = {key.rpartition(".")[2]: key for key in keys}
    near = leaf if leaf in whole else nearest(leaf, whole)
    return "" if near is None or whole[near] == unknown else f"; did you mean '{whole[near]}'?"


def _keys(model: "type[BaseModel]", member: "type[BaseModel] | None", table: str = "") -> Iterator[str]:
    """The keys of a configuration, those of its tables as table.key; of a table of several kinds only `member`'s."""
    for name, field in model.model_fields.items():
        yield table + name
        classes = _classes(field.annotation)
        for inner in [member] if member in classes and member is not None else classes:
            yield from _keys(inner, member, f"{table}{name}.")


def _classes(annotation: Any) -> "list[type[BaseModel]]":
    """The classes of a table: one, several for a table of several kinds, none for a plain value."""
    return [
        each for each in (annotation, *get_args(annotation)) if isinstance(each, type) and hasattr(each, "model_fields")
    ]


class ShortageError(Exception):
    """The system refused open files, memory or threads. The message names which, and what to do.

    It is not an OrsanetError: code that goes on after a mistake of the user must not go on after
    this.
    """


def shortage(error: BaseException, where: object = None) -> ShortageError | None:
    """The shortage that caused an exception, itself or one in its chain of causes; None if there is none.

    `where` is the file or folder that was in use, for the message.
    """
    for cause in _chain(error):
        if isinstance(cause, ShortageError):
            return cause
        if (known := _known(cause)) is not None:
            what, advice = known
            place = "" if where is None else f"{where}: "
            return ShortageError(f"{place}{what} ({_first_line(cause)}); {advice}")
    return None


def refuse_shortage(error: BaseException, where: object = None) -> None:
    """Raise ShortageError if a shortage caused the exception, and UnreachableError if that caused it.

    Arguments as for `shortage`.
    """
    for cause in _chain(error):
        if isinstance(cause, UnreachableError):
            raise cause
    if (short := shortage(error, where)) is not None:
        raise short from error


def _known(error: BaseException) -> tuple[str, str] | None:
    """What is short, and what to do about it."""
    if isinstance(error, MemoryError):
        return _NUMBERS[errno.ENOMEM]
    if isinstance(error, OSError):  # without a number it is a library's own: Pillow's, for a damaged picture
        return None if error.errno is None else _NUMBERS.get(error.errno)
    return next((known for pattern, known in _TEXTS if pattern.search(str(error))), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its cause, the cause's cause and so on, each once: a library that raises an
    exception again can make a circle.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__context__ if cause.__cause__ is None else cause.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
