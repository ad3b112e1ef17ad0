"""Models and data sets from the hub, through the client of `huggingface_hub`, with what that client lacks.

- `snapshot`: one repository at one commit, into the hub's cache or a folder (`fetch`);
- `repository`: the request and the fetched repository;
- `listing`: the commit of a revision, its files, and which file names are refused;
- `cache_layout`: where each file is on this disk;
- `offline`: files that an earlier run fetched;
- `large_files`: large files, continued after a kill and checked against the hub's sha256;
- `retries`: one retry policy for every request, the client's included;
- `messages`: error messages, with what to type instead;
- `upload`: an exported folder, uploaded to a repository.

The client reads HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and its own login itself. It is imported inside functions only.
"""

from lexalign.hub.repository import FetchedRepository, HubFile
from lexalign.hub.snapshot import fetch

__all__ = ["FetchedRepository", "HubFile", "fetch"]
