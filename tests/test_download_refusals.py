"""stage=download against a hub on the loopback that refuses, lies or is not there: what is said, and what is not written."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_client import MODEL, contents, dead_address, get, leftovers, point_client, start
from hub_server import Fault, HubServer

from lexalign.errors import HubError

CANARY = "hf_canaryOfATest"


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def hub(home, monkeypatch):
    with HubServer() as server:
        point_client(monkeypatch, server.url, home)
        server.push("org/m", MODEL)
        yield server


def test_gated_says_which_page_to_visit(hub, home, monkeypatch):
    hub.repositories["models/org/m"].gated_for = "hf_another"
    with pytest.raises(HubError, match=f"model org/m is gated: visit {hub.url}/org/m, accept the terms, then type `hf auth login`"):
        get()
    monkeypatch.setenv("HF_TOKEN", CANARY)
    with pytest.raises(HubError, match=f"the account that is logged in has no access: visit {hub.url}/org/m") as caught:
        get()
    assert CANARY not in str(caught.value) and caught.value.__suppress_context__
    assert leftovers(home) == []


def test_no_token_in_anything_that_is_shown(hub, home):
    """The server repeats the token in its refusal; the process logs with a traceback and with the client's own debugging."""
    hub.repositories["models/org/m"].gated_for = "hf_another"
    out, problems = start(hub, home, HF_TOKEN=CANARY, HF_DEBUG="1").communicate(timeout=60)
    assert any(CANARY in request.headers.get("authorization", "") for request in hub.requests)
    assert "HubError: model org/m is gated" in problems and "curl" in problems
    assert CANARY not in out + problems
    kept = [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert kept == []


REFUSALS = {
    "no such model": (dict(repo="org/none"), "there is no model org/none at .*status 401.*check model.path; .*hf auth login"),
    "no such data set": (dict(repo="org/m", kind="dataset"), "there is no dataset org/m at .*: check data.path"),
    "no such revision": (dict(revision="v9"), "no revision 'v9': .*/org/m/tree/main; type model.revision=main"),
    "no such commit": (dict(revision="0" * 40), "no revision '0{40}'"),
    "no id": (dict(repo="org//m"), "'org//m' is neither a folder here nor the id of a repository"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_not_there_is_said(hub, home, case):
    changes, message = REFUSALS[case]
    with pytest.raises(HubError, match=message):
        get(**changes)
    assert leftovers(home) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the token in use is not valid"),
        (403, "access refused .*with another account type"),
        (404, "or it is private"),
        (418, "418"),
    ],
)
def test_other_refusals(hub, monkeypatch, status, message):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    hub.faults = [Fault(place="info", status=status, body=CANARY.encode(), headers={"X-Error-Message": CANARY})]
    with pytest.raises(HubError, match=message) as caught:
        get()
    assert CANARY not in str(caught.value)
    assert hub.count("info") == 1


def test_an_endpoint_with_a_password_is_shown_without(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url.replace("//", f"//user:{CANARY}@"))
    with pytest.raises(HubError, match=f"at {hub.url}, or it is private") as caught:
        get(repo="org/none")
    assert CANARY not in str(caught.value)


def test_what_is_no_hub_is_said(hub):
    hub.faults = [Fault(place="info", status=200, body=b"<html>Please log in to the network</html>")]
    with pytest.raises(HubError, match=f"the server at {hub.url} is not a hub: check HF_ENDPOINT"):
        get()


def test_a_dead_server_is_said_soon(home, monkeypatch):
    with dead_address() as address:
        point_client(monkeypatch, address, home)
        begin = time.monotonic()
        with pytest.raises(HubError, match=f"no answer from {address} .ConnectError.*HF_HUB_OFFLINE=1"):
            get(retries=5, first_pause=1)
    assert time.monotonic() - begin < 5


def test_a_dead_server_does_not_pass_off_an_old_copy(hub, home, monkeypatch):
    """The client itself would quietly take the cached commit; offline is to be said (HF_HUB_OFFLINE)."""
    get()
    with dead_address() as address:
        point_client(monkeypatch, address, home)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE=1"):
            get()


HOSTILE = [
    "../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "a\\b.txt", "C:/evil.txt", "a/C:evil.txt", "nul\0.txt",
    "a//b.txt", "./a.txt", "a/.", "..", "esc\x1b[2J.txt", "lone\ud800.txt", ".cache/huggingface/download/x.metadata",
    ".Cache/HuggingFace/x", "config.json/inside.txt", "l" * 256, "../evil.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_hostile_names_are_refused_before_anything_is_written(hub, home, tmp_path, name, to):
    hub.push("org/m", {**MODEL, name: b"evil"})
    with pytest.raises(HubError, match=re.escape(f"model org/m has a file named {ascii(name)}, which ")):
        get(output_dir=tmp_path / "out" if to == "folder" else None)
    assert leftovers(home) == [] and not (tmp_path / "out").exists() and not hub.sent
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_a_hostile_name_can_be_left_out(hub):
    hub.push("org/m", {**MODEL, "../evil.txt": b"evil"})
    assert contents(get(exclude=["*evil*"]).folder) == MODEL


@pytest.mark.parametrize("link", ["sub", "model.safetensors", ".cache"])
def test_a_link_out_of_the_folder_is_not_followed(hub, tmp_path, link):
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (out / link).symlink_to(outside / "target")
    with pytest.raises(HubError, match=f"is a link to {outside}.*, outside the folder"):
        get(output_dir=out)
    assert list(outside.iterdir()) == [] and not hub.sent


@pytest.mark.parametrize("lie", ["commit", "sha256", "git"])
def test_hashes_that_are_none_are_refused(hub, home, monkeypatch, lie):
    """They name files and folders of the cache."""
    evil = "../../../../evil"
    if lie == "commit":
        hub.faults = [Fault(place="info", status=200, body=json.dumps({"id": "org/m", "sha": evil}).encode())]
    else:
        large = {"lfs": {"oid": evil, "size": 4, "pointerSize": 1}} if lie == "sha256" else {}
        line = {"type": "file", "path": "x.bin", "size": 4, "oid": evil, **large}
        hub.faults = [Fault(place="tree", status=200, body=json.dumps([line]).encode())]
    with pytest.raises(HubError, match="gives '../../../../evil' as a commit|gives no hash for 'x.bin'"):
        get()
    assert leftovers(home) == [] and not hub.sent


def test_a_full_disk_is_said_beforehand(hub, home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(HubError, match="model org/m needs 0.00 GB more, and .* has 0.00 GB free: set HF_HOME"):
        get()
    assert leftovers(home) == [] and not hub.sent


def test_the_client_is_itself_again_afterwards(hub):
    from huggingface_hub.utils import _http

    before = _http._GLOBAL_CLIENT_FACTORY
    with pytest.raises(HubError):
        get(repo="org/none")
    assert _http._GLOBAL_CLIENT_FACTORY is before
