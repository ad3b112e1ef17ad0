"""`lexalign doctor`: what this machine has, and what is wrong with it. Nothing heavy is imported, so the answer takes a second."""

import argparse
import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.version import Version

from lexalign import __version__
from lexalign.config import hardware
from lexalign.config.paths import CONF, PACKAGE, find_write_problem
from lexalign.config.secrets import redact

GB = 1e9
LOW_DISK = 10 * GB
"""Free bytes of a disk below which a model of usual size may not fit."""
BF16_CAPABILITY = (8, 0)
"""The compute capability from which a CUDA device computes in bfloat16."""
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""Numbers of these attributes in CUDA's driver interface (CUdevice_attribute)."""
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "WANDB_MODE", "WANDB_BASE_URL")
"""Variables that change what a run does and hold no secret."""


@dataclass(frozen=True)
class Finding:
    """One line of the answer; `problem` says what is wrong and what to do."""

    name: str
    value: str
    problem: str | None = None


def main(words: Sequence[str]) -> int:
    """Print what there is; exit code 1 where something is wrong."""
    argparse.ArgumentParser(prog="lexalign doctor", description="Say what this machine has, and what is wrong.").parse_args(words)
    findings = examine_machine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(redact(f"{finding.name:{width}}  {finding.value}{'   <- wrong' if finding.problem else ''}"))
    problems = [f"{finding.name}: {finding.problem}" for finding in findings if finding.problem]
    if problems:
        print(f"\n{len(problems)} problem{'s' * (len(problems) > 1)}:")
        print("\n".join(f"  - {problem}" for problem in problems))
        return 1
    print("\nNothing is wrong.")
    return 0


def examine_machine() -> list[Finding]:
    """All findings, in the order in which they are printed."""
    parts: list[Callable[[], Iterator[Finding]]] = [
        examine_package, examine_python, examine_torch, examine_devices, examine_memory, examine_disks, examine_extras, examine_keys,
        examine_versions, examine_variables,
    ]  # fmt: skip
    return [finding for part in parts for finding in part()]


def examine_package() -> Iterator[Finding]:
    """Where the program and its configuration files are."""
    yield Finding("lexalign", f"{__version__} ({PACKAGE})")
    problem = None if (CONF / "config.yaml").is_file() else "there is no config.yaml in it; install lexalign again"
    yield Finding("configuration", str(CONF), problem)


def examine_python() -> Iterator[Finding]:
    """Python and the system."""
    problem = None if sys.version_info >= (3, 11) else "lexalign needs Python 3.11 or newer"
    yield Finding("python", f"{platform.python_version()} ({sys.executable})", problem)
    yield Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}")


def get_version(package: str) -> str | None:
    """The version that is installed; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine_torch() -> Iterator[Finding]:
    """torch, and whether its build fits the devices."""
    version = get_version("torch")
    if version is None:
        yield Finding("torch", "not installed", "type: pip install torch")
        return
    idle = hardware.count_cuda_devices() > 0 and hardware.is_torch_cpu_build()
    problem = "this build cannot use the GPUs that are here; install a CUDA build: https://pytorch.org/get-started" if idle else None
    yield Finding("torch", version, problem)


def examine_devices() -> Iterator[Finding]:
    """The devices a run can use, and whether they compute in bfloat16."""
    chosen = hardware.resolve_device("auto") if get_version("torch") else "cpu"
    yield Finding("cpu", f"{hardware.get_processor_name()}, {hardware.count_cores()} cores")
    for number in range(hardware.count_cuda_devices()):
        name, memory, capability = describe_cuda_device(number)
        yield Finding(f"cuda:{number}", f"{name}, {memory / GB:.1f} GB, compute capability {capability[0]}.{capability[1]}")
    if shutil.which("nvidia-smi") and not hardware.count_cuda_devices():
        reason = "CUDA_VISIBLE_DEVICES is empty" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else "the driver shows no device"
        yield Finding("cuda", f"none: {reason}")
    yield Finding("hardware=auto", chosen)
    if chosen == "cuda":
        capable = all(describe_cuda_device(number)[2] >= BF16_CAPABILITY for number in range(hardware.count_cuda_devices()))
        yield Finding("bf16", "yes" if capable else "not on every GPU; hardware.precision=auto computes in fp32 there")
    elif chosen == "cpu":
        yield Finding("bf16", "in hardware" if has_cpu_bf16() else "by software, slower than fp32; hardware.precision=auto takes fp32")


def describe_cuda_device(number: int) -> tuple[str, int, tuple[int, int]]:
    """Name, bytes of memory and compute capability of a CUDA device, asked of the driver."""
    driver = hardware.load_cuda_driver()
    assert driver is not None
    name, memory, part = ctypes.create_string_buffer(100), ctypes.c_size_t(), ctypes.c_int()
    driver.cuDeviceGetName(name, len(name), number)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), number)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, number)
        capability.append(part.value)
    return name.value.decode(errors="replace"), memory.value, (capability[0], capability[1])


def has_cpu_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16, as Linux lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return any(flag in flags for flag in CPU_BF16)


def examine_memory() -> Iterator[Finding]:
    """Memory of the machine, or what a container allows."""
    memory, limit = psutil.virtual_memory(), read_memory_limit()
    allowed = f", of which this container may use {limit / GB:.1f} GB" if limit is not None and limit < memory.total else ""
    yield Finding("memory", f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free{allowed}")


def read_memory_limit() -> int | None:
    """The bytes that the control group of this process may use; None without a limit."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def examine_disks() -> Iterator[Finding]:
    """The disks that runs, models and temporary files are written to."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    for name, folder in (("runs", Path("multirun")), ("models of the hub", home), ("temporary files", get_temporary_folder())):
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free
        problem = find_write_problem(folder)
        if problem is None and free < LOW_DISK and name != "temporary files":
            yield Finding(f"disk for {name}", f"{free / GB:.1f} GB free at {folder} (little for a large model)")
        else:
            yield Finding(f"disk for {name}", f"{free / GB:.1f} GB free at {folder}", problem and f"cannot be written: {problem}")


def get_temporary_folder() -> Path:
    """Where temporary files would go, whether or not it can be written."""
    return Path(next((os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), "/tmp"))


def list_requirements() -> list[Requirement]:
    """What lexalign needs: as the installed package says, or as pyproject.toml says in a checkout that is not installed."""
    try:
        return [Requirement(text) for text in importlib.metadata.requires("lexalign") or []]
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [Requirement(f'{text}; extra == "{extra}"') for extra, texts in project["optional-dependencies"].items() for text in texts]
    return [*map(Requirement, project["dependencies"]), *extras]


def get_extra(requirement: Requirement) -> str | None:
    """The extra that a requirement belongs to; None for one that is always needed."""
    named = re.search(r"""extra == ["']([\w.-]+)["']""", str(requirement.marker or ""))
    return named[1] if named else None


def examine_extras() -> Iterator[Finding]:
    """The extras: which are installed, and how to get the others."""
    packages: dict[str, list[str]] = {}
    for requirement in list_requirements():
        if extra := get_extra(requirement):
            packages.setdefault(extra, []).append(requirement.name)
    for extra, names in sorted(packages.items()):
        missing = [name for name in names if get_version(name) is None]
        yield Finding(f"extra {extra}", f"not installed: pip install 'lexalign[{extra}]'" if missing else "installed")


def examine_keys() -> Iterator[Finding]:
    """Whether there are keys, and where; never what they are."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    token_file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    yield Finding("key of the hub", locate_key("HF_TOKEN", token_file, "") or "none: only public models (HF_TOKEN or `hf auth login`)")
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    host = re.sub(r"^https?://|[:/].*$", "", os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    yield Finding("key of W&B", locate_key("WANDB_API_KEY", netrc, host) or "none: runs are kept offline (WANDB_API_KEY or `wandb login`)")


def locate_key(variable: str, file: Path, needle: str) -> str | None:
    """Where a key is: in a variable, or in a file that holds `needle`; None where there is none."""
    if os.environ.get(variable):
        return f"in {variable}"
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return f"in {file}" if text.strip() and needle in text else None


def find_constraints() -> Path | None:
    """The file with the versions that lexalign is tested with: in a checkout, or where the wheel put it."""
    places = [
        PACKAGE.parent / "constraints.txt",
        PACKAGE.parent / "share" / "lexalign" / "constraints.txt",
        Path(sysconfig.get_path("data")) / "share" / "lexalign" / "constraints.txt",
        Path(sys.prefix) / "share" / "lexalign" / "constraints.txt",
    ]
    return next((place for place in places if place.is_file()), None)


def examine_versions() -> Iterator[Finding]:
    """The installed versions: what is needed, and what is tested."""
    needed = [requirement for requirement in list_requirements() if get_extra(requirement) is None]
    for requirement in needed:
        version = get_version(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if version is None:
            yield Finding(requirement.name, "not installed", f"type: pip install '{requirement}'")
        elif not requirement.specifier.contains(Version(version).base_version, prereleases=True):
            yield Finding(requirement.name, version, f"lexalign needs {requirement}; type: pip install '{requirement}'")
    file = find_constraints()
    if file is None:
        yield Finding("tested versions", "constraints.txt is not here")
        return
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    tested = dict(line.split("==") for line in lines if "==" in line)
    installed = {name: version for name in tested if (version := get_version(name)) is not None}
    others = {name: version for name, version in installed.items() if Version(version).base_version != Version(tested[name]).base_version}
    yield Finding("tested versions", f"{len(installed) - len(others)} of {len(installed)} packages are as in {file}")
    for name, version in others.items():
        yield Finding(f"  {name}", f"{version} (tested with {tested[name]})")


def examine_variables() -> Iterator[Finding]:
    """Variables of the environment that change what a run does."""
    said = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    yield Finding("variables", ", ".join(said) or "none that matter")
