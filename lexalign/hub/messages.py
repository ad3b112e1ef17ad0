"""What the hub refused, and what to type instead. No message carries a token, nor the hub's own text, which may echo one."""

import re

from lexalign.errors import HubError
from lexalign.hub.repository import RepositoryRequest

LOG_IN = "type `hf auth login` or set the environment variable HF_TOKEN"


def get_endpoint() -> str:
    """The address of the hub in force, without a user or password in it."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def make_page_url(wanted: RepositoryRequest) -> str:
    """The web page of a repository."""
    return f"{get_endpoint()}/{'datasets/' if wanted.kind == 'dataset' else ''}{wanted.repo}"


def make_unreachable_error(error: Exception) -> HubError:
    """For a connection that failed, whatever was asked."""
    return HubError(
        f"no answer from {get_endpoint()} ({type(error).__name__}): check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT; "
        "to work from what is in the cache, set HF_HUB_OFFLINE=1"
    )


def make_busy_error(status: int, *, attempts: int, asked: float | None) -> HubError:
    """For an answer that said "later" too often, or too much later."""
    if status == 429:
        when = f"in {asked:.0f} s" if asked else "in some minutes"
        return HubError(
            f"{get_endpoint()} limits the rate of requests (status 429, asked {attempts} times): run again {when}; what is fetched "
            f"is kept. Requests with a login have a higher limit ({LOG_IN}); fewer at once: download.workers=1"
        )
    return HubError(
        f"{get_endpoint()} answers with status {status} (asked {attempts} times): run again later, what is fetched is kept; "
        "download.retries=10 waits longer"
    )


def make_damaged_error(names: str) -> HubError:
    """For files that arrived with another hash than the hub states, twice."""
    return HubError(
        f"{names} arrived damaged twice (the hash is not the one that {get_endpoint()} states); nothing of it was kept. Run again "
        "later, and check the proxy or mirror in between"
    )


def explain_error(error: Exception, wanted: RepositoryRequest) -> Exception:
    """The `HubError` for what the client raised; an error that is none of the hub's comes back as it is."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError) and error.__cause__ is not None:
        error = error.__cause__  # the client's "no connection and no copy", whatever the reason was
    if isinstance(error, errors.GatedRepoError):
        return _gated(error.response.status_code, wanted)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError(
            f"{wanted} has no revision {wanted.revision!r}: its branches and tags are at {make_page_url(wanted)}/tree/main; type "
            f"{wanted.group}.revision=main, or a tag, or a commit of 40 digits"
        )
    if isinstance(error, errors.DisabledRepoError):
        return HubError(f"{wanted} is disabled by the hub, see {make_page_url(wanted)}: type {wanted.group}.path=<another one>")
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error.response.status_code, wanted)
    if isinstance(error, httpx2.TransportError):
        return make_unreachable_error(error)
    if isinstance(error, errors.HFValidationError):
        return HubError(f"{wanted.repo!r} is neither a folder here nor the id of a repository: type {wanted.group}.path=owner/name")
    if isinstance(error, errors.FileMetadataError) or type(error).__name__ == "JSONDecodeError":
        return HubError(f"what answers at {get_endpoint()} is no hub: check HF_ENDPOINT, the proxy and the network's log-in page")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return HubError(f"a file of {wanted} arrived with another size than {get_endpoint()} states: run again later")
    return error


def _gated(status: int, wanted: RepositoryRequest) -> HubError:
    if status == 403:
        return HubError(
            f"{wanted} is gated and the account that is logged in has no access: visit {make_page_url(wanted)}, accept the terms and wait "
            f"until access is granted; for another account {LOG_IN}"
        )
    return HubError(f"{wanted} is gated: visit {make_page_url(wanted)}, accept the terms, then {LOG_IN}")


def _by_status(status: int, wanted: RepositoryRequest) -> HubError:
    from huggingface_hub import get_token

    logged_in = get_token() is not None
    if status == 401 and logged_in:
        return HubError(f"{wanted}: the token in force is not valid at {get_endpoint()} (status 401): {LOG_IN}, or unset it")
    if status == 403:
        return HubError(f"{wanted}: access refused (status 403), see {make_page_url(wanted)}; with another account {LOG_IN}")
    if status in (401, 404):
        return HubError(
            f"there is no {wanted} at {get_endpoint()}, or it is private (status {status}): check {wanted.group}.path; for a private "
            f"one {LOG_IN}{', with an account that may read it' if logged_in else ''}"
        )
    return HubError(f"{wanted}: {get_endpoint()} answers with status {status}, see {make_page_url(wanted)}")
