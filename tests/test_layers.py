"""Who may import whom: what judges a configuration imports nothing heavy, and imports point one way."""

import ast
from functools import cache
from pathlib import Path

import pytest

import lexalign

ROOT = Path(lexalign.__file__).resolve().parent
HEAVY = {
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "wandb", "pyarrow", "numpy", "huggingface_hub", "safetensors",
    "bitsandbytes", "rich",
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
# Read before every run, refused ones included.
LIGHT = [
    "cli", "errors", "compat", "config.command_line", "config.context", "config.schema", "config.parsing", "config.loading",
    "config.overrides", "config.targets", "config.compose", "config.paths", "config.hardware", "config.secrets", "config.rules",
    "runs.run_log", "artifacts.result", "artifacts.fingerprint", "artifacts.provenance", "data.files", "data.first_row", "data.columns",
    "data.rows", "data.checks", "data.converters", "data.split_checks", "evaluation.metrics", "embedded.world", "rewards", "rewards.panel",
    "rewards.settings", "sweeps.check", "sweeps.fingerprint", "sweeps.ledger", "chat.conversation", "chat.vllm", "commands",
    "commands.doctor", "commands.json_schema",
]  # fmt: skip
# From the ground up: a room imports only from rooms that stand before it. Rooms on one line do not import each other.
ROOMS = [
    ("errors", "losses"),
    ("compat", "embedded", "fast_path", "evaluation.metrics"),
    ("training.signals",),
    ("config",),
    ("hub", "rewards", "tracking", "distributed", "surveys"),
    ("data",),
    ("artifacts",),
    ("cache", "models"),
    ("evaluation",),
    ("config.rules",),
    ("config.model_choice",),
    ("config.compose", "config.origins"),
    ("chat", "export", "training"),
    ("trainers", "stages", "runs"),
    ("sweeps", "commands"),
    ("cli",),
]


@cache
def imported(module: str, *, anywhere: bool) -> frozenset[str]:
    """Modules that a module names in its imports: at its top level, or anywhere in it."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if anywhere else [inner for node in tree.body for inner in statements(node)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # `from lexalign.data import rows` names a module, `from lexalign.config.schema import Data` does not.
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & set(MODULES)) or {str(node.module)}
    return frozenset(found)


def statements(node: ast.stmt) -> list[ast.stmt]:
    """A statement and those that run with it when the module is imported (but not what only type checkers read)."""
    if isinstance(node, (ast.If, ast.Try, ast.With)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return []
        return [inner for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt) for inner in statements(child)]
    return [node]


@cache
def pulled_in(module: str) -> frozenset[str]:
    """Everything that importing a module imports: through our own modules and the packages they stand in."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            parents = {name.rsplit(".", cut)[0] for cut in range(1, name.count(".") + 1)}
            waiting += [*imported(name, anywhere=False), *parents] if name in MODULES else []
    return frozenset(found)


def test_the_modules_are_found():
    assert {f"lexalign.{name}" for name in LIGHT} <= set(MODULES) and len(MODULES) > 40


@pytest.mark.parametrize("name", LIGHT)
def test_what_judges_a_configuration_is_light(name):
    heavy = {module for module in pulled_in(f"lexalign.{name}") if module.split(".")[0] in HEAVY}
    assert heavy == set()


def test_heavy_modules_are_seen_as_heavy():
    assert "torch" in pulled_in("lexalign.losses") and "wandb" not in pulled_in("lexalign.tracking")


def test_schema_needs_the_standard_library_only():
    third_party = {
        module.split(".")[0]
        for name in ("config.schema", "config.parsing", "errors", "artifacts.result")
        for module in pulled_in(f"lexalign.{name}")
    }
    assert third_party & {"hydra", "omegaconf", "yaml"} == set()


def importers(target: str) -> set[str]:
    """Our modules that name `target`, or something below it, in an import anywhere."""
    return {
        module
        for module in MODULES
        if any(name == target or name.startswith(f"{target}.") for name in imported(module, anywhere=True))
        and not (module == target or module.startswith(f"{target}."))
    }


def test_nobody_imports_a_stage_or_a_trainer():
    """They are reached through `_target_`, so that a new one is a file."""
    assert importers("lexalign.stages") == set()
    assert {name for name in MODULES if name.startswith("lexalign.trainers.")} >= {"lexalign.trainers.sft", "lexalign.trainers.dpo"}
    assert {name for name in importers("lexalign.trainers") if not name.startswith("lexalign.trainers")} == set()


def room_of(module: str) -> str:
    """The longest name in ROOMS that a module stands in."""
    name = module.removeprefix("lexalign").removeprefix(".")
    named = [room for rooms in ROOMS for room in rooms if f"{name}.".startswith(f"{room}.")]
    return max(named, key=len) if named else name


@pytest.mark.parametrize("room", [room for rooms in ROOMS for room in rooms])
def test_imports_point_one_way(room):
    height = {name: at for at, rooms in enumerate(ROOMS) for name in rooms}
    wrong = [
        f"{module} imports {name}"
        for module in MODULES
        if room_of(module) == room
        for name in imported(module, anywhere=True) & set(MODULES) - {"lexalign"}
        if room_of(name) != room and height[room_of(name)] >= height[room]
    ]
    assert wrong == []


def test_every_module_stands_in_a_room():
    listed = {room for rooms in ROOMS for room in rooms}
    assert {module for module in MODULES if room_of(module) not in listed} <= {"lexalign", "lexalign.__main__"}


def test_few_modules_stand_loose():
    assert len([file for file in ROOT.glob("*.py") if file.name != "__init__.py"]) < 6


def test_losses_need_torch_and_nothing_else():
    assert {name.split(".")[0] for name in imported("lexalign.losses", anywhere=True)} == {"torch"}


def test_no_module_imports_itself_in_a_circle():
    def circle(module: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
        if module in path:
            return (*path[path.index(module) :], module)
        if module in clean:
            return None
        for name in sorted(imported(module, anywhere=False) & set(MODULES)):
            if found := circle(name, (*path, module)):
                return found
        clean.add(module)
        return None

    clean: set[str] = set()
    assert [found for module in MODULES if (found := circle(module, ()))] == []


def test_hydra_stays_at_the_edges():
    """Only what composes, launches and builds things knows Hydra; settings arrive elsewhere as dataclasses."""
    knowing = importers("hydra") | importers("omegaconf")
    edges = {"cli", "compat", "commands.explain", "runs.execute", "training.pipeline", "data.rows"}
    inside = {name.removeprefix("lexalign.") for name in knowing if not name.startswith(("lexalign.sweeps", "lexalign.config."))}
    assert inside <= edges
