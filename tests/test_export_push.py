"""`export.push`: the exported folder on a hub of the loopback, and every way in which the hub may say no."""

import pytest
import torch
from command_line_problems import problems_of, said
from experiment_runner import World
from hub_client import dead_address, environment, point_client
from hub_server import HubServer
from transformers import AutoModelForCausalLM

from lexalign.artifacts.manifest import MANIFEST, find_damage
from lexalign.errors import HubError

TOKEN = "hf_" + "WriterOfThisRepository"
EXPORT = ("stage=export", "hardware.threads=1", "export.rows=4")
REPO = "export.push=me/weaver"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("push"))


@pytest.fixture(scope="module")
def run(world):
    return world.run("train.max_steps=4", "evaluate=false", "hardware.threads=1")[1]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on which `me` may write with TOKEN, and this process's client pointed at it."""
    with HubServer() as server:
        server.accounts[TOKEN] = "me"
        point_client(monkeypatch, server.url, tmp_path / "hf")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def refused(world, run, repo=REPO):
    """What an export is refused with, its folder, and that the token is not in it."""
    out_dir = world.folder / f"refused-{len(list(world.folder.iterdir()))}"
    with pytest.raises(HubError) as error:
        world.run(*EXPORT, repo, f"model.path={run}", out_dir=out_dir)
    assert TOKEN not in str(error.value) and TOKEN not in (out_dir / "run.log").read_text()
    return str(error.value), out_dir


def changes(hub):
    """Requests that would change something."""
    return [request for request in hub.requests if request.method in ("POST", "PUT")]


def test_the_whole_folder_goes_there_privately(world, run, hub):
    result, folder = world.run(*EXPORT, REPO, f"model.path={run}")
    artifact, held = folder / "artifact", hub.files("me/weaver")
    ours = {path.name: path.read_bytes() for path in artifact.iterdir() if path.name != MANIFEST}
    assert {name: content for name, content in held.items() if name != ".gitattributes"} == ours
    assert hub.repositories["models/me/weaver"].private is True and held["README.md"].startswith(b"---\nlibrary_name: transformers")
    assert result.details["pushed"] == {
        "repo": "me/weaver", "url": f"{hub.url}/me/weaver", "commit": hub.repositories["models/me/weaver"].branches["main"], "private": True
    }  # fmt: skip
    assert b"# weaver" in held["README.md"]
    uploads = [request for request in hub.requests if request.path.startswith("/upload/")]
    assert uploads and not any("authorization" in request.headers for request in uploads), "the store is not told the token"
    there = AutoModelForCausalLM.from_pretrained("me/weaver").state_dict()
    here = AutoModelForCausalLM.from_pretrained(artifact).state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)


def test_it_is_public_where_that_is_said(world, run, hub):
    world.run(*EXPORT, REPO, f"model.path={run}", "export.private=false")
    assert hub.repositories["models/me/weaver"].private is False


def test_an_empty_repository_of_ones_own_is_filled_if_it_is_as_private(world, run, hub):
    """As after a push that broke off."""
    hub.push("me/weaver", {".gitattributes": b""})
    message, folder = refused(world, run)
    assert "is there already and public, not private" in message and "type export.private=false" in message
    assert f"the exported model is complete in {folder / 'artifact'}: type `hf upload me/weaver" in message
    assert find_damage(folder / "artifact") is None
    hub.repositories["models/me/weaver"].private = True
    world.run(*EXPORT, REPO, f"model.path={run}")
    assert "model.safetensors" in hub.files("me/weaver")


def test_a_name_that_is_taken_is_never_written_to(world, run, hub):
    hub.push("me/weaver", {"model.safetensors": b"another"})
    message, _ = refused(world, run)
    assert f"the name is taken, {hub.url}/me/weaver holds 1 files; type another export.push" in message
    assert hub.files("me/weaver") == {"model.safetensors": b"another"}


def test_without_a_login_or_with_a_wrong_one_nothing_is_exported(world, run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "SomebodyElsesOldToken")
    message, folder = refused(world, run)
    assert "does not accept the token in use (status 401)" in message and "hf auth login" in message and "SomebodyElses" not in message
    monkeypatch.delenv("HF_TOKEN")
    none, other = refused(world, run)
    assert "there is no login for" in none and "with a token that may write" in none
    assert not (folder / "artifact").exists() and not (other / "artifact").exists() and not changes(hub)


def test_anothers_name_is_refused_and_the_export_kept(world, run, hub):
    message, folder = refused(world, run, "export.push=somebody/weaver")
    assert "may not write to somebody (status 403): type export.push=<your own name>/<name>" in message
    assert find_damage(folder / "artifact") is None and not hub.repositories


def test_a_hub_that_is_gone_is_told(world, run, hub, monkeypatch, tmp_path):
    with dead_address() as nowhere:
        point_client(monkeypatch, nowhere, tmp_path / "hf")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        message, folder = refused(world, run)
    assert f"no answer from {nowhere}" in message and "nothing was exported" in message


def test_offline_is_refused_before_anything(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert said(problems_of("stage=export model=tiny export.push=me/weaver"), "HF_HUB_OFFLINE is set", "unset it")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert problems_of("stage=export model=tiny export.push=me/weaver") == []


def test_as_a_user_types_it(world, run, hub, tmp_path):
    env = environment(hub.url, tmp_path / "home", HF_TOKEN=TOKEN)
    done = world.type(*EXPORT, REPO, f"model.path={run}", "tracking=none", "output_dir=typed", env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr and "model.safetensors" in hub.files("me/weaver")
