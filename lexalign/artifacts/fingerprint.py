"""Fingerprints of what a run is made from. Two runs with the same content key produce the same artifact."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lexalign.config import hardware
from lexalign.config.paths import Location, find_data, find_model
from lexalign.config.schema import Data, Experiment, Model, RewardMethod
from lexalign.config.secrets import redact
from lexalign.data.chat_template import CHAT_WORDS
from lexalign.data.files import find_split_file

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "tokenizers", "numpy")
# Settings that change how a run is watched or stored, not what it produces.
UNTRAINED = (
    "dry_run", "verbose", "resume", "resume_allow", "output_dir", "store", "cache", "compare", "preflight", "reproduce", "report",
    "report_csv", "tracking", "extensions", "sweep", "download", "export", "chat",
)  # fmt: skip
UNTRAINED_IN_TRAIN = (
    "save_steps", "log_steps", "keep_checkpoints", "eval_steps", "stop_after", "divergence", "divergence_factor", "divergence_steps",
)  # fmt: skip
WORTH_A_NOTE = 1 << 26
"""Minimum size in bytes of a file whose digest is cached on the disk."""
LONGEST_DIFF = 200_000
"""Maximum length in characters of the git diff in a manifest."""
SETTLED = 2_000_000_000
"""Nanoseconds after its last change, from which a file's modification time shows a further change reliably."""


def make_content_key(experiment: Experiment, *, parent: str | None) -> str:
    """Make the key of everything that decides the artifact: settings, model, data, code and versions, but not the output folder."""
    material: dict[str, Any] = {
        **describe_inputs(experiment),
        **({"model": {"parent": parent}} if parent else {}),
        "code": [digest_code(package) for package in ("lexalign", *experiment.extensions)],
        "versions": list_versions(),
    }
    if isinstance(experiment.method, RewardMethod):
        judges = [node for node in experiment.method.rewards if isinstance(node.get("path"), str)]
        material["rewards"] = [fingerprint_location(find_model(node["path"]), node.get("revision"), "models") for node in judges]
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()[:32]


def describe_inputs(experiment: Experiment) -> dict[str, Any]:
    """Describe the settings, the model's files and the data's files of a run (without code and versions)."""
    return {
        "settings": list_deciding_settings(experiment),
        "model": fingerprint_model(experiment.model),
        "data": fingerprint_data(experiment.data),
    }


def describe_environment(experiment: Experiment) -> dict[str, Any]:
    """Describe the environment of a run: code, interpreter, processor, and what decides the order of floating-point additions."""
    return {
        "code": {package: digest_code(package) for package in ("lexalign", *experiment.extensions)},
        "versions": {"python": platform.python_version(), **list_versions()},
        "machine": {"processor": hardware.get_processor_name(), "device": hardware.resolve_device(experiment.hardware.device)},
        "threads": experiment.hardware.threads or hardware.count_cores(),
        "deterministic": experiment.deterministic,
    }


def digest_rows(rows: list[dict[str, Any]]) -> str:
    """Return the sha256 of the training rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()


def digest_local_files(experiment: Experiment) -> list[dict[str, Any]]:
    """Return the parts of the content key that are local files. These may change while a run is under way."""
    return [part for part in (fingerprint_model(experiment.model), fingerprint_data(experiment.data)) if "repo" not in part]


def list_deciding_settings(experiment: Experiment) -> dict[str, Any]:
    """List the settings that decide the artifact. Paths are left out: the content of their files stands for them."""
    tree = dataclasses.asdict(experiment)
    for name in UNTRAINED:
        if name != experiment.stage.name:  # a stage's own settings decide its result
            tree.pop(name)
    for name in UNTRAINED_IN_TRAIN:
        (tree["train"] or {}).pop(name, None)
    for name in ("path", "parent", "parent_overrides"):
        tree["model"].pop(name)
    tree["data"].pop("path")
    tree["hardware"] = {"device": hardware.resolve_device(experiment.hardware.device), "precision": experiment.hardware.precision}
    return tree


def make_reference_key(experiment: Experiment, base: dict[str, Any], *, dtype: str, layout: str) -> str:
    """Make the key of the reference model: weights, adapter, quantization, types, device, layout, code and versions."""
    assert experiment.adapter is not None
    device = hardware.resolve_device(experiment.hardware.device)
    material = {
        "model": [fingerprint_model(experiment.model), base.get("files") or [base["path"], base["revision"]]],
        "bits": experiment.adapter.bits,
        "arithmetic": [dtype, experiment.hardware.precision, device, experiment.model.attention, layout],
        "code": [digest_code("lexalign.fast_path"), list_versions()],
    }
    return hashlib.sha256(json.dumps(material, sort_keys=True, default=str).encode()).hexdigest()[:32]


def fingerprint_model(model: Model) -> dict[str, Any]:
    """Describe the model: digests of its files, or the hub's name and commit."""
    if model.path is None:
        return {}
    place = find_model(model.path)
    facts = fingerprint_location(place, model.revision, "models")
    if model.tokenizer is not None:
        facts["tokenizer"] = fingerprint_location(find_model(model.tokenizer), model.tokenizer_revision, "models")
    return facts


def fingerprint_data(data: Data) -> dict[str, Any]:
    """Describe the data: digests of the files of the used splits, or the hub's name and commit."""
    if data.path is None:
        return {}
    place = Location(kind="hub", name=data.path) if data.format == "hub" else find_data(data.path)
    if place.kind == "hub" or place.path is None:
        return {**fingerprint_template(data), **fingerprint_location(place, data.revision, "datasets")}
    splits = [split for split in (data.split, data.eval_split) if split]
    return {
        **fingerprint_template(data),
        "files": {split: digest_file(find_split_file(place.path, split, data.format)[0]) for split in splits},
    }


def fingerprint_template(data: Data) -> dict[str, str]:
    """Digest of a chat template of the user's own."""
    named = Path(data.chat_template).expanduser()
    return {} if data.chat_template in CHAT_WORDS or not named.is_file() else {"chat_template": digest_file(named)}


def fingerprint_location(
    place: Location, revision: str | None, kind: str, *, digest: Callable[[Path], str] | None = None
) -> dict[str, Any]:
    """Return digests of a folder's files, or a hub repository with the commit that the cache holds for its revision.

    `digest_bytes` as `digest` reads every byte now.
    """
    if place.kind == "hub":
        return {"repo": place.name, "revision": find_cached_commit(place.name, revision, kind)}
    assert place.path is not None
    files = sorted(path for path in place.path.rglob("*") if path.is_file()) if place.path.is_dir() else [place.path]
    base = place.path if place.path.is_dir() else place.path.parent
    # The manifest also holds when and where it was made. The other files cover what it says of them.
    return {"files": {str(path.relative_to(base)): (digest or digest_file)(path) for path in files if path.name != "manifest.json"}}


def find_cached_commit(repo: str, revision: str | None, kind: str) -> str:
    """Return the commit of a branch in the hub's cache; the revision itself if it is a commit or not cached."""
    from huggingface_hub.constants import HF_HUB_CACHE

    ref = Path(HF_HUB_CACHE) / f"{kind}--{repo.replace('/', '--')}" / "refs" / (revision or "main")
    return ref.read_text().strip() if ref.is_file() else revision or "main"


@cache
def _digest(path: str, size: int, mtime: int, ctime: int, inode: int) -> str:
    note = get_digest_note(path, size, mtime, ctime, inode)
    if note is not None and note.is_file():
        return note.read_text(encoding="ascii")
    digest = digest_bytes(Path(path))
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_suffix(f".{os.getpid()}")
        aside.write_text(digest, encoding="ascii")
        aside.replace(note)
    return digest


def digest_bytes(path: Path) -> str:
    """Return the sha256 of a file. Its bytes are read now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_digest_note(path: str, size: int, mtime: int, ctime: int, inode: int) -> Path | None:
    """Return the path where a large file's digest is cached; None for a small file or one that has just changed."""
    if size < WORTH_A_NOTE or time.time_ns() - max(mtime, ctime) < SETTLED:
        return None
    name = hashlib.sha256(f"{os.path.abspath(path)}\0{size}\0{mtime}\0{ctime}\0{inode}".encode()).hexdigest()
    return hardware.get_user_cache() / "digests" / name


def digest_file(path: Path) -> str:
    """Return the sha256 of a file. It is cached by size, times and inode: in the process, and for a large file on the disk.

    The change time is among them, which no program can set back.
    """
    stat = os.stat(path)
    return _digest(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@cache
def digest_code(package: str) -> str:
    """Return the sha256 over the Python files of a package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(root.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def list_versions() -> dict[str, str]:
    """Return the versions of the packages that take part in training."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def run_git(*words: str) -> str:
    """Run git in the checkout of this package and return its output. Raises OSError or SubprocessError outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():  # installed from a wheel: a repository around it is not ours
        raise FileNotFoundError(root / "pyproject.toml")
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@cache
def get_git_commit() -> str | None:
    """Return the commit of the checkout, with `+dirty` if files differ from it; None outside git."""
    try:
        return run_git("rev-parse", "HEAD") + ("+dirty" if run_git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def get_git_diff() -> str | None:
    """Return the checkout's diff from that commit, without secrets; None if there is none, or outside git."""
    try:
        diff = redact(run_git("diff", "HEAD"))
    except (OSError, subprocess.SubprocessError):
        return None
    if len(diff) > LONGEST_DIFF:
        return f"{len(diff):,} characters, sha256 {hashlib.sha256(diff.encode()).hexdigest()}"
    return diff or None
