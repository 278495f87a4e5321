"""What the hub's client says when something does not come, as one line with its cure."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from dyrate.errors import DyrateError

# `huggingface_hub` has changed its own client from release to release.
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(DyrateError):
    """Something on the hub that does not come."""

    def __init__(
        self, where: str, reason: str, cure: str, reachable: bool = True, busy: bool = False
    ) -> None:
        super().__init__(f"{where}: {reason}; {cure}")
        self.reason, self.cure = reason, cure
        self.reachable = reachable
        """Whether there is a hub that answers what it is asked."""
        self.busy = busy
        """Whether it may answer in a moment."""


@contextmanager
def told(where: str, page: str) -> Iterator[None]:
    """Turn what the hub's client raises in the block into a `HubError`, which begins with `where`.

    `page` is the address at which a person sees the repository.
    """
    try:
        yield
    except DyrateError:
        raise
    except Exception as error:
        raise _named(where, page, error) from error


def _named(where: str, page: str, error: Exception) -> HubError:
    from huggingface_hub import constants, errors

    chain = [*_chain(error)]
    for one in chain:
        match one:
            case errors.GatedRepoError():
                cure = f"accept its conditions at {page} with the account of your token"
                return HubError(where, "is gated", cure if _has_token() else f"{_LOG_IN}, and {cure}")
            case errors.RepositoryNotFoundError():
                cure = "check the name, and whether the token may read it" if _has_token() else _LOG_IN
                return HubError(where, "is not there, or is private", cure)
            case errors.RevisionNotFoundError():
                return HubError(where, "has no such revision", f"the commits are at {page}/commits/main")
            case errors.EntryNotFoundError() if isinstance(one, errors.HfHubHTTPError):
                return HubError(where, "lacks a file that it should have", f"see {page}/tree/main")
            case errors.HfHubHTTPError():
                return _refused(where, one.response.status_code, constants.ENDPOINT)
            case errors.FileMetadataError():
                cure = "check HF_ENDPOINT, and whether a proxy or firewall answers in its place"
                return HubError(where, f"{constants.ENDPOINT} does not answer as a hub does", cure)
            case errors.OfflineModeIsEnabled():
                return _not_cached(where, "and HF_HUB_OFFLINE is set")
            case OSError() if one.errno in _FULL:
                cure = "make room, or set HF_HOME to a folder on a larger disk"
                return HubError(where, f"there is no space left in {constants.HF_HUB_CACHE}", cure)
    for one in chain:
        if type(one).__module__.partition(".")[0] in _CLIENTS or isinstance(
            one, ConnectionError | TimeoutError
        ):
            cure = "check network and proxy (HTTPS_PROXY), or set HF_ENDPOINT to a mirror"
            said = " ".join(str(one).split()) or type(one).__name__
            reason = f"{constants.ENDPOINT} cannot be reached ({said:.80})"
            return HubError(where, reason, cure, reachable=False)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached(where, "and nothing else was asked")
    text = " ".join(str(error).split())
    return HubError(where, f"{type(error).__name__}: {text:.200}", f"see {page}")


def _refused(where: str, status: int, endpoint: str) -> HubError:
    match status:
        case 401:
            return HubError(where, "the token is not accepted (401)", f"{_LOG_IN} anew")
        case 403:
            cure = "let the token read it (a fine-grained token needs the repository, or public gated ones)"
            return HubError(where, "the token may not read it (403)", cure)
        case 429:
            cure = "wait some minutes; logged in, more is allowed"
            return HubError(where, "the hub has had too many requests (429)", cure, busy=True)
        case _ if status >= 500:
            cure = "try again later, or set HF_ENDPOINT to a mirror; what has come stays"
            return HubError(where, f"{endpoint} fails ({status})", cure, reachable=False, busy=True)
    return HubError(where, f"{endpoint} answers {status}", "try again later")


def _not_cached(where: str, why: str) -> HubError:
    from huggingface_hub import constants

    cure = "fetch it where there is a network (`dyrate fetch --help`)"
    return HubError(where, f"is not in the cache ({constants.HF_HUB_CACHE}), {why}", cure, reachable=False)


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what lies behind it, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
