"""Upload a finished folder to a new repository, through the hub's client."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lexalign.errors import HubError
from lexalign.hub.messages import LOG_IN, get_endpoint, make_unreachable_error

log = logging.getLogger(__name__)
MADE_BY_THE_HUB = {".gitattributes"}


def refuse_early(repo: str) -> None:
    """Raise HubError if nothing can be pushed (no login, or an invalid one), before any work is done."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(f"export.push={repo}: there is no login for {get_endpoint()}: {LOG_IN}, with a token that may write")
    with explain_errors(repo, "nothing was exported"):
        HfApi().whoami()


def push_folder(folder: Path, repo: str, *, private: bool, without: Sequence[str]) -> dict[str, Any]:
    """Create the repository and upload the folder without the files `without`; return address and commit.

    Raises HubError if the hub refuses. A repository that holds files is never written to.
    """
    from huggingface_hub import HfApi

    api, again = HfApi(), f"the exported model is complete in {folder}: type `hf upload {repo} {folder} .`"
    with explain_errors(repo, again):
        address = api.create_repo(repo, private=private, exist_ok=True)
        repository = api.model_info(repo)
    names = {file.rfilename for file in repository.siblings or ()} - MADE_BY_THE_HUB
    if names:
        raise HubError(f"export.push={repo}: the name is taken, {address} holds {len(names)} files; type another export.push, or: {again}")
    if bool(repository.private) != private:
        actual, expected = ("private", "public") if repository.private else ("public", "private")
        raise HubError(
            f"export.push={repo}: the repository is there already and {actual}, not {expected}; change that at {address}/settings, or type "
            f"export.private={str(bool(repository.private)).lower()}; {again}"
        )
    with explain_errors(repo, again):
        upload = api.upload_folder(folder_path=folder, repo_id=repo, ignore_patterns=list(without), commit_message="Exported by LexAlign")
    log.info("Pushed to %s (%s) at commit %s; %s stays here", address, "private" if private else "public", upload.oid, ", ".join(without))
    return {"repo": repo, "url": str(address), "commit": upload.oid, "private": private}


@contextmanager
def explain_errors(repo: str, then: str) -> Iterator[None]:
    """Inside the block, an error of the hub's client becomes a HubError that says what to do. `then` is added at its end."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise HubError(f"export.push={repo}: {explain_status(error.response.status_code, repo)}; {then}") from None
    except httpx2.TransportError as error:
        raise HubError(f"export.push={repo}: {make_unreachable_error(error)}; {then}") from None


def explain_status(status: int, repo: str) -> str:
    """Explain a status and say what to type. The hub's own text is not shown: it may echo a token."""
    owner = repo.partition("/")[0]
    if status == 401:
        return f"{get_endpoint()} does not accept the token in use (status 401): {LOG_IN}"
    if status == 403:
        return (
            f"the account that is logged in may not write to {owner} (status 403): type export.push=<your own name>/<name>, or {LOG_IN} "
            "with a token of the role write"
        )
    if status == 409:
        return "the name is taken (status 409): type another one"
    return f"{get_endpoint()} answers with status {status}: run it again later"
