"""Runs on the Hugging Face hub: `load("owner/name")`.

    owner/name[@revision] ─ huggingface_hub ─▶ a snapshot in its cache ─▶ read as a run folder

A name is looked for on the hub only if neither its path nor the path's first folder exists here, so
a mistyped file name in a folder of one's own asks no server. Only the files of FILES are taken:
tensors, settings and text, none of which is executed. `orsanet-train push` writes such repositories
(export/push.py). The library's environment variables apply: HF_ENDPOINT (another server), HF_HOME
(the cache), HF_TOKEN, HF_HUB_OFFLINE.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orsanet_cache.errors import OrsanetError, refuse_shortage
from orsanet_train.model.checkpoint import LANDMARKS_FILE, WEIGHTS_FILES

NAME = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[A-Za-z0-9][\w./-]*))?")
FROZEN = "frozen.json"  # the frozen networks: digests and sources
CARD = "README.md"
FILES = (
    *WEIGHTS_FILES,
    *(f"{name.partition('.')[0]}-{LANDMARKS_FILE}" for name in WEIGHTS_FILES),
    "config.toml",
    "run.json",
    FROZEN,
    CARD,
)


def local_run(run: Path) -> Path:
    """The run folder itself, or the folder of a run on the hub, which is downloaded.

    Raises OrsanetError if the hub has no such model, or cannot be reached.
    """
    name = NAME.fullmatch(run.as_posix())
    if name is None or run.exists() or run.parent.exists():
        return run
    from huggingface_hub import snapshot_download

    with hub_errors(f"{run}: no such folder, and on the hub"):
        return Path(snapshot_download(name["repository"], revision=name["revision"], allow_patterns=list(FILES)))


def repository_name(text: str) -> str:
    """`text`, if it is OWNER/NAME. Raises OrsanetError otherwise."""
    name = NAME.fullmatch(text)
    if name is None or name["revision"] is not None:
        raise OrsanetError(f"{text!r} is not OWNER/NAME, the owner's and the model's name on the hub")
    return text


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn the failures of the hub and the network into one sentence each, which begins with `what`."""
    import httpx2
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except HFValidationError as error:
        raise OrsanetError(f"{what}: is not a name for the hub ({' '.join(str(error).split())})") from error
    except RepositoryNotFoundError as error:
        raise OrsanetError(f"{what}: no model of this name, or it is private; check the name, or {login}") from error
    except RevisionNotFoundError as error:
        raise OrsanetError(f"{what}: no such revision; give a branch, a tag or a commit after the @") from error
    except LocalTokenNotFoundError as error:
        raise OrsanetError(f"{what}: no access token; {login}") from error
    except OfflineModeIsEnabled as error:
        raise OrsanetError(f"{what}: HF_HUB_OFFLINE is set; unset it") from error
    except (IncompleteSnapshotError, LocalEntryNotFoundError) as error:  # neither on the hub nor in the cache
        if isinstance(error.__cause__, HfHubHTTPError):
            with hub_errors(what):
                raise error.__cause__ from error
        raise OrsanetError(
            f"{what}: cannot be reached, and it is not in the cache; check the network connection"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = login if status in (401, 403) else "try again later"
        raise OrsanetError(f"{what}: the server answered {status}; {advice}") from error
    except RuntimeError as error:  # the library's for a file that cannot be uploaded
        if not isinstance(error.__cause__, HfHubHTTPError | httpx2.HTTPError):
            raise
        with hub_errors(what):
            raise error.__cause__ from error
    except httpx2.HTTPError as error:
        refuse_shortage(error, what)
        raise OrsanetError(
            f"{what}: cannot be reached ({str(error) or type(error).__name__}); check the network connection"
        ) from error
