"""Models and data sets from the hub, through `huggingface_hub`'s own client; what that client leaves out is here.

- `snapshot`: one repository at one commit, into the hub's cache or a folder (`fetch`);
- `repository`: what is wanted, and what came;
- `listing`: the revision as a commit, the files it holds, and the names that are refused;
- `places`: where each file lies on this disk;
- `offline`: what an earlier run left there;
- `large`: files that are continued after a kill and checked against the hub's sha256;
- `patience`: the same waiting and asking again for every request, the client's included;
- `refusals`: what went wrong and what to type instead.

The client reads HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE and its own login itself. It is imported inside functions only.
"""

from lexalign.hub.repository import FetchedRepository, HubFile
from lexalign.hub.snapshot import fetch

__all__ = ["FetchedRepository", "HubFile", "fetch"]
