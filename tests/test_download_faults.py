"""stage=download against a hub on the loopback that breaks off, stalls, is busy or sends damaged files."""

import signal
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hub_client import MODEL, WEIGHTS, contents, get, leftovers, point_client, start
from hub_server import Fault, HubServer, git_id, sha256

from lexalign.errors import HubError
from lexalign.hub.retries import get_asked_pause


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def hub(home, monkeypatch):
    with HubServer() as server:
        point_client(monkeypatch, server.url, home)
        server.push("org/m", MODEL)
        yield server


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def half_fetched(home) -> int:
    return sum(path.stat().st_size for path in (home / "hub").rglob("*.lexalign.incomplete"))


def test_a_killed_download_is_continued_not_restarted(hub, home):
    half = len(WEIGHTS) // 2
    hub.faults = [Fault(place="store", stall=half, times=1)]
    first = start(hub, home)
    wait_for(lambda: half_fetched(home) > half - (1 << 17))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    have = half_fetched(home)
    assert "model.safetensors" not in str(leftovers(home))
    again = start(hub, home)
    out, problems = again.communicate(timeout=60)
    assert again.returncode == 0, problems
    assert contents(out.splitlines()[-1]) == MODEL
    ranges = [request.start for request in hub.requests if request.place == "store"]
    assert ranges == [0, have] and f"is continued at byte {have} of {len(WEIGHTS)}" in problems
    assert hub.sent["model.safetensors"] == half + len(WEIGHTS) - have < 1.1 * len(WEIGHTS)
    assert half_fetched(home) == 0


def test_ctrl_c_stops_at_once_and_keeps_what_has_come(hub, home):
    hub.faults = [Fault(place="store", pace=0.2, times=1)]  # ten seconds in all
    run = start(hub, home)
    wait_for(lambda: half_fetched(home) > len(WEIGHTS) // 10)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert run.returncode != 0 and half_fetched(home)
    assert contents(get().folder) == MODEL
    assert hub.sent["model.safetensors"] < 1.1 * len(WEIGHTS)


def test_two_runs_at_once_fetch_a_file_once(hub, home):
    runs = [start(hub, home), start(hub, home)]
    for run in runs:
        out, problems = run.communicate(timeout=60)
        assert run.returncode == 0, problems
        assert contents(out.splitlines()[-1]) == MODEL
    assert hub.sent["model.safetensors"] == len(WEIGHTS)


def test_a_torn_partial_file_costs_one_more_round(hub, home):
    """As two runs on a disk without locks could leave it."""
    blobs = home / "hub" / "models--org--m" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(WEIGHTS)}.lexalign.incomplete").write_bytes(b"?" * 1_000_000)
    assert contents(get().folder) == MODEL
    assert hub.sent["model.safetensors"] == 2 * len(WEIGHTS) - 1_000_000


@pytest.mark.parametrize("name", ["model.safetensors", "sub/notes.txt"])
def test_a_cut_connection_is_continued(hub, name):
    place = "store" if name == "model.safetensors" else "resolve"
    hub.faults = [Fault(place=place, path=name, cut=len(MODEL[name]) // 2, times=1)]
    assert contents(get().folder) == MODEL
    again = 0 if place == "store" else len(MODEL[name]) // 2  # the client drops the part of a small file that it held in memory
    assert len(MODEL[name]) <= hub.sent[name] <= len(MODEL[name]) + max(again, 1 << 16)


def test_a_stalled_connection_is_continued(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults = [Fault(place="store", stall=1_000_000, times=1)]
    assert contents(get().folder) == MODEL
    assert hub.sent["model.safetensors"] == len(WEIGHTS)


@pytest.mark.parametrize("place", ["info", "tree"])
def test_a_hub_that_does_not_answer_is_asked_again(hub, monkeypatch, place):
    """The client would wait for ever for these."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.faults = [Fault(place=place, stall=0, times=1)]
    assert contents(get().folder) == MODEL
    assert hub.count(place) == 2 + (place == "tree")  # the client lists once more, for its notes


def test_a_connection_that_never_brings_anything_ends_in_an_error(hub):
    hub.faults = [Fault(place="store", cut=0)]
    with pytest.raises(HubError, match=f"no answer from {hub.url} .*check the network"):
        get()
    assert hub.count("store") == 3


def test_a_store_without_ranges_still_continues(hub):
    hub.faults = [Fault(place="store", cut=1_000_000, times=1), Fault(place="store", no_ranges=True)]
    assert contents(get().folder) == MODEL
    assert hub.sent["model.safetensors"] == len(WEIGHTS) + 1_000_000


def test_a_store_with_too_few_bytes_is_an_error(hub, home):
    hub.faults = [Fault(place="store", shorter=10)]
    with pytest.raises(HubError, match="model.safetensors arrived damaged twice"):
        get()
    assert leftovers(home) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_corruption_of_the_same_size_is_fetched_again_once(hub, home, tmp_path, name, to, caplog):
    place = "store" if name == "model.safetensors" else "resolve"
    out = tmp_path / "out" if to == "folder" else None
    hub.faults = [Fault(place=place, path=name, change=True, times=1)]
    assert contents(get(output_dir=out).folder) == MODEL
    assert hub.sent[name] == 2 * len(MODEL[name])
    assert f"hub: {name}" in caplog.text and "damaged" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_lasting_corruption_is_an_error_and_leaves_nothing(hub, home, name):
    hub.faults = [Fault(place="store" if name == "model.safetensors" else "resolve", path=name, change=True)]
    with pytest.raises(HubError, match=f"{name} arrived damaged twice .*Run again later"):
        get()
    assert hub.sent[name] == 2 * len(MODEL[name])
    assert name not in leftovers(home) and not {sha256(MODEL[name]), git_id(MODEL[name])} & set(leftovers(home))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("to", ["cache", "folder"])
def test_a_file_that_went_bad_on_the_disk_is_fetched_again(hub, tmp_path, name, to):
    out = tmp_path / "out" if to == "folder" else None
    bad = (get(output_dir=out).folder / name).resolve()
    bad.write_bytes(MODEL[name][:-1] + b"?")
    assert contents(get(output_dir=out).folder) == MODEL
    assert hub.sent[name] == 2 * len(MODEL[name])


PLACES = [("info", "GET"), ("tree", "GET"), ("resolve", "HEAD"), ("resolve", "GET"), ("store", "GET")]


@pytest.mark.parametrize(("place", "method"), PLACES)
def test_429_waits_as_long_as_it_is_asked_to(hub, place, method, caplog):
    hub.faults = [Fault(place=place, method=method, status=429, headers={"Retry-After": "1"}, times=1)]
    begin = time.monotonic()
    assert contents(get().folder) == MODEL
    assert time.monotonic() - begin >= 1
    assert "hub: status 429, retry 1 of 2" in caplog.text


@pytest.mark.parametrize(("place", "method"), PLACES)
@pytest.mark.parametrize("status", [500, 503])
def test_5xx_is_asked_again_everywhere(hub, place, method, status):
    hub.faults = [Fault(place=place, method=method, status=status, times=2)]
    assert contents(get().folder) == MODEL
    assert hub.faults[0].times == 0


@pytest.mark.parametrize(("place", "method"), PLACES)
def test_lasting_503_ends_in_an_error_after_the_retries(hub, place, method):
    hub.faults = [Fault(place=place, method=method, path="model.safetensors" if place == "store" else "", status=503)]
    with pytest.raises(HubError, match=f"{hub.url} answers with status 503 .asked 3 times.: run again later.*download.retries"):
        get(workers=1)
    assert hub.faults[0].times in (997, 994)  # two small files may be asked for at once


def test_lasting_429_says_when_to_come_back(hub):
    hub.faults = [Fault(place="info", status=429, headers={"Retry-After": "3600"})]
    begin = time.monotonic()
    with pytest.raises(HubError, match="limits the rate of requests .status 429.*in 3600 s.*HF_TOKEN"):
        get()
    assert time.monotonic() - begin < 1 and hub.count("info") == 1


def test_pauses_that_hubs_ask_for():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert get_asked_pause({"Retry-After": "7"}) == 7
    assert 55 < get_asked_pause({"Retry-After": later}) <= 60
    assert get_asked_pause({"RateLimit": '"api";r=0;t=55'}) == 55
    assert get_asked_pause({"RateLimit": '"api";r=9;t=55'}) is None
    assert get_asked_pause({"Retry-After": "soon"}) is None
