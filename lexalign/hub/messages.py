"""Messages for what the hub refused, with what to type instead. None holds a token or the hub's own text, which may echo one."""

import re

from lexalign.errors import HubError
from lexalign.hub.repository import RepositoryRequest

LOG_IN = "type `hf auth login` or set the environment variable HF_TOKEN"


def get_endpoint() -> str:
    """Return the address of the hub in use, without user and password."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def make_page_url(request: RepositoryRequest) -> str:
    """Return the address of a repository's web page."""
    return f"{get_endpoint()}/{'datasets/' if request.kind == 'dataset' else ''}{request.repo}"


def make_unreachable_error(error: Exception) -> HubError:
    """Make the error for a connection that failed."""
    return HubError(
        f"no answer from {get_endpoint()} ({type(error).__name__}): check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; "
        "to use only the cache, set HF_HUB_OFFLINE=1"
    )


def make_busy_error(status: int, *, attempts: int, pause: float | None) -> HubError:
    """Make the error for a hub that stays busy, or asks for too long a `pause` (seconds)."""
    if status == 429:
        when = f"in {pause:.0f} s" if pause else "in some minutes"
        return HubError(
            f"{get_endpoint()} limits the rate of requests (status 429, asked {attempts} times): run again {when}; what is fetched "
            f"is kept. Requests with a login have a higher limit ({LOG_IN}); fewer at once: download.workers=1"
        )
    return HubError(
        f"{get_endpoint()} answers with status {status} (asked {attempts} times): run again later, what is fetched is kept; "
        "download.retries=10 waits longer"
    )


def make_damaged_error(names: str) -> HubError:
    """Make the error for files that twice arrived with another hash than the hub states."""
    return HubError(
        f"{names} arrived damaged twice (the hash is not the one that {get_endpoint()} states); nothing of it was kept. Run again "
        "later, and check the proxy or mirror in between"
    )


def explain_error(error: Exception, request: RepositoryRequest) -> Exception:
    """Turn an error of the hub's client into a `HubError`; any other error is returned unchanged."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError) and error.__cause__ is not None:
        error = error.__cause__  # the client's "no connection and no copy", whatever the reason was
    if isinstance(error, errors.GatedRepoError):
        return make_gated_error(error.response.status_code, request)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{request} has no revision {request.revision!r}: its branches and tags are at {make_page_url(request)}/tree/main; type "
            f"{request.group}.revision=main, or a tag, or a commit of 40 digits"
        )
    if isinstance(error, errors.DisabledRepoError):
        return HubError(f"{request} is disabled by the hub, see {make_page_url(request)}: type {request.group}.path=<another one>")
    if isinstance(error, errors.HfHubHTTPError):
        return make_status_error(error.response.status_code, request)
    if isinstance(error, httpx2.TransportError):
        return make_unreachable_error(error)
    if isinstance(error, errors.HFValidationError):
        return HubError(f"{request.repo!r} is neither a folder here nor the id of a repository: type {request.group}.path=owner/name")
    if isinstance(error, errors.FileMetadataError) or type(error).__name__ == "JSONDecodeError":
        return HubError(f"the server at {get_endpoint()} is not a hub: check HF_ENDPOINT, the proxy and the network's log-in page")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return HubError(f"a file of {request} arrived with another size than {get_endpoint()} states: run again later")
    return error


def make_gated_error(status: int, request: RepositoryRequest) -> HubError:
    if status == 403:
        return HubError(
            f"{request} is gated and the account that is logged in has no access: visit {make_page_url(request)}, accept the terms and "
            f"wait until access is granted; for another account {LOG_IN}"
        )
    return HubError(f"{request} is gated: visit {make_page_url(request)}, accept the terms, then {LOG_IN}")


def make_status_error(status: int, request: RepositoryRequest) -> HubError:
    from huggingface_hub import get_token

    logged_in = get_token() is not None
    if status == 401 and logged_in:
        return HubError(f"{request}: the token in use is not valid at {get_endpoint()} (status 401): {LOG_IN}, or unset it")
    if status == 403:
        return HubError(f"{request}: access refused (status 403), see {make_page_url(request)}; with another account {LOG_IN}")
    if status in (401, 404):
        return HubError(
            f"there is no {request} at {get_endpoint()}, or it is private (status {status}): check {request.group}.path; for a private "
            f"one {LOG_IN}{', with an account that may read it' if logged_in else ''}"
        )
    return HubError(f"{request}: {get_endpoint()} answers with status {status}, see {make_page_url(request)}")
