"""A finished folder uploaded to a repository of its own, through the hub's own client."""

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
    """Raise HubError where nothing could be pushed, before any work is done for it: no login, or one that is not valid."""
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(f"export.push={repo}: there is no login for {get_endpoint()}: {LOG_IN}, with a token that may write")
    with explain_errors(repo, "nothing was exported"):
        HfApi().whoami()


def push_folder(folder: Path, repo: str, *, private: bool, without: Sequence[str]) -> dict[str, Any]:
    """Make the repository and upload the folder, but for the files `without`; address and commit. Raises HubError where the hub refuses.

    A repository that holds something is never written to.
    """
    from huggingface_hub import HfApi

    api, again = HfApi(), f"the exported model is whole in {folder}: type `hf upload {repo} {folder} .` when that is mended"
    with explain_errors(repo, again):
        made = api.create_repo(repo, private=private, exist_ok=True)
        there = api.model_info(repo)
    held = {file.rfilename for file in there.siblings or ()} - MADE_BY_THE_HUB
    if held:
        raise HubError(f"export.push={repo}: the name is taken, {made} holds {len(held)} files; type another export.push, or: {again}")
    if bool(there.private) != private:
        now, wanted = ("private", "public") if there.private else ("public", "private")
        raise HubError(
            f"export.push={repo}: the repository is there already and {now}, not {wanted}; change that at {made}/settings, or type "
            f"export.private={str(bool(there.private)).lower()}; {again}"
        )
    with explain_errors(repo, again):
        done = api.upload_folder(folder_path=folder, repo_id=repo, ignore_patterns=list(without), commit_message="Exported by LexAlign")
    log.info("Pushed to %s (%s) at commit %s; %s stays here", made, "private" if private else "public", done.oid, ", ".join(without))
    return {"repo": repo, "url": str(made), "commit": done.oid, "private": private}


@contextmanager
def explain_errors(repo: str, then: str) -> Iterator[None]:
    """Within the block, what the hub's client raises becomes a HubError that says what to do; `then` is said at its end."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise HubError(f"export.push={repo}: {explain_status(error.response.status_code, repo)}; {then}") from None
    except httpx2.TransportError as error:
        raise HubError(f"export.push={repo}: {make_unreachable_error(error)}; {then}") from None


def explain_status(status: int, repo: str) -> str:
    """What a status means here, and what to type. The hub's own text may echo a token."""
    owner = repo.partition("/")[0]
    if status == 401:
        return f"{get_endpoint()} does not know the token in force (status 401): {LOG_IN}"
    if status == 403:
        return (
            f"the account that is logged in may not write to {owner} (status 403): type export.push=<your own name>/<name>, or {LOG_IN} "
            "with a token of the role write"
        )
    if status == 409:
        return "the name is taken (status 409): type another one"
    return f"{get_endpoint()} answers with status {status}: run it again later"
