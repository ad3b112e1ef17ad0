"""Check dotted paths to code in a configuration: whether they are allowed, and whether they exist. The checks import nothing.

People share configuration files, so a file may only run classes and functions that this package, or a package that the user typed, offers.
Names that a module only imports from other packages (`lexalign.artifacts.fingerprint.subprocess`) are not offered.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lexalign.config.parsing import suggest_nearest

Arguments = dict[str, bool]
"""Name -> whether the argument is required."""


def find_wrong_arguments(path: str, names: list[str], where: str) -> list[str]:
    """Problems with the arguments of the class at a dotted path; empty if its source does not show its arguments."""
    definition = find_definition(path)
    if definition is None:
        return []
    node, module = definition
    if not isinstance(node, ast.ClassDef):
        return [f"{where}._target_={path}: is a function; name a class"]
    arguments = list_arguments(node, module)
    if arguments is None:
        return []
    problems = [
        f"{where}.{name}: {node.name} takes no such argument; it takes {', '.join(arguments) or 'none'}{suggest_nearest(name, arguments)}"
        for name in names
        if name not in arguments
    ]
    return problems + [
        f"{where}.{name}: is missing; {node.name} needs it" for name, is_needed in arguments.items() if is_needed and name not in names
    ]


def find_definition(path: str, visited: tuple[str, ...] = ()) -> tuple[ast.ClassDef | ast.FunctionDef, str] | None:
    """The definition at a dotted path, also through imports, and its module; None if there is none."""
    module, _, name = path.rpartition(".")
    file = find_module_file(module) if module else None
    tree = parse_file(file) if file is not None else None
    if file is None or tree is None or path in visited:
        return None
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node, module
    for statement in ast.walk(tree):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return find_definition(f"{find_source_module(statement, module, file)}.{alias.name}", (*visited, path))
    return None


def find_source_module(node: ast.ImportFrom, module: str, file: Path) -> str:
    """The module that a `from … import` in `module` names."""
    if not node.level:
        return str(node.module)
    parts = module.split(".")[: len(module.split(".")) - node.level + (file.name == "__init__.py")]
    return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def parse_file(file: Path) -> ast.Module | None:
    """The syntax tree of a file; None if it has a syntax error (an import will report it)."""
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError:
        return None


def list_arguments(node: ast.ClassDef, module: str) -> Arguments | None:
    """The arguments of a class: the parameters of its `__init__`, or its fields as a dataclass; None if they are unknown."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return list_parameters(item.args)
    arguments: Arguments = {}
    for base in node.bases:
        definition = find_definition(f"{module}.{base.id}") if isinstance(base, ast.Name) else None
        if isinstance(base, ast.Name) and base.id == "object":
            continue
        base_arguments = list_arguments(*definition) if definition is not None and isinstance(definition[0], ast.ClassDef) else None  # type: ignore[arg-type]
        if base_arguments is None:
            return None
        arguments |= base_arguments
    if any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list):
        arguments |= {
            item.target.id: item.value is None
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and "ClassVar" not in ast.dump(item.annotation)
        }
    return arguments


def list_parameters(args: ast.arguments) -> Arguments | None:
    """The parameters of an `__init__`; None if it accepts any."""
    if args.kwarg is not None or args.vararg is not None:
        return None
    parameters = [*args.posonlyargs, *args.args][1:]
    arguments = {parameter.arg: index < len(parameters) - len(args.defaults) for index, parameter in enumerate(parameters)}
    return arguments | {parameter.arg: default is None for parameter, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)}


OWN_PACKAGE = "lexalign"
KEYS = ("_target_", "settings_class", "converter")
HYDRA_PARTS = re.compile(r"hydra\._internal\.core_plugins\.|hydra\.experimental\.callbacks\.|hydra_plugins\.|lexalign\.")
OWN_PLUGINS = ("hydra_plugins.lexalign.Local", "hydra_plugins.lexalign.Points")
"""Our plugins for Hydra, in `lexalign/sweeps/plugins`."""
LOGGING_PARTS = re.compile(r"logging\.(handlers\.)?(\w*Handler|Formatter|Filter)")


def find_target_problems(node: Any, packages: Sequence[str], where: str = "") -> list[str]:
    """Problems with all paths in a tree to code outside `packages`, or to code that does not exist."""
    if isinstance(node, Mapping):
        problems = []
        for key, value in node.items():
            full = f"{where}.{key}" if where else str(key)
            if key in KEYS and value is not None and (problem := explain_wrong_target(value, packages) or explain_not_offered(key, value)):
                problems.append(f"{full}={value}: {problem}")
            problems += find_target_problems(value, packages, full)
        return problems
    if isinstance(node, (list, tuple)):
        return [problem for i, item in enumerate(node) for problem in find_target_problems(item, packages, f"{where}[{i}]")]
    return []


OFFERED = {
    "_target_": (
        r"lexalign\.(?:stages\.\w+\.run|tracking\.(?:\w+\.)?\w+Tracker|trainers\.(?:\w+\.)?\w+(?:Trainer|Objective)|"
        r"rewards\.(?:\w+\.)?[A-Z]\w*)"
    ),
    "settings_class": r"lexalign\.(?:config\.schema\.(?:\w+\.)?\w*Method|trainers\.(?:\w+\.)?\w+(?:Method|Settings))",
    "converter": r"lexalign\.data\.(?:chat_)?converters\.\w+(?:\.\w+)?",
}
"""Patterns of the paths in this package that a configuration may name, by the key."""


def explain_not_offered(key: str, path: Any) -> str | None:
    """The problem with a path in this package that this key may not name; None if it may, and for other packages."""
    if str(path).split(".")[0] != OWN_PACKAGE:
        return None
    room = ".".join(str(path).split(".")[:2])
    if re.fullmatch(OFFERED[key], str(path)):
        definition = find_definition(str(path))
        if definition is not None and (f"{definition[1]}.").startswith(f"{room}."):
            return None
    return f"is not made to be named as {key}; choose one of conf/, or name a class of your own package with extensions=[mypackage]"


def explain_wrong_target(path: Any, packages: Sequence[str], *, classes_only: bool = False) -> str | None:
    """The problem with a dotted path to a class or function; None if there is none."""
    parts = str(path).split(".")
    if len(parts) < 2 or parts[0] not in packages or not all(part.isidentifier() for part in parts):
        return f"code is only taken from {' and '.join(packages)}; name your own package on the command line: 'extensions=[mypackage]'"
    module, name = ".".join(parts[:-1]), parts[-1]
    file = find_module_file(module)
    if file is None:
        return f"there is no module {module}"
    names = list_offered(file, package=parts[0], classes_only=classes_only)
    return None if names is None or name in names else f"{module} defines no {name}{suggest_nearest(name, names)}"


def find_module_file(module: str) -> Path | None:
    """The file of a module; None if there is none. Nothing is imported, because an import would run the parent package."""
    package, *submodules = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is None:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") and not submodules else None
    stems = [Path(folder, *submodules) for folder in spec.submodule_search_locations]
    files = [file for stem in stems for file in (stem / "__init__.py", stem.parent / f"{stem.name}.py")]
    return next((file for file in files if file.is_file()), None)


@cache
def list_offered(file: Path, *, package: str, classes_only: bool) -> frozenset[str] | None:
    """The names that a module defines, or imports from its own package; None if the source does not show them."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError:
        return None  # an import will report it
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and not classes_only):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == package):
            names |= {alias.asname or alias.name for alias in node.names}
    return None if names & {"*", "__getattr__"} else frozenset(names)


def find_hydra_problems(node: DictConfig | None) -> list[str]:
    """Problems with code that a file would make Hydra run: callbacks, launchers, log handlers, environment variables."""
    if node is None:
        return []
    problems = []

    def walk(value: Any, where: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if key == "_target_" and not is_hydra_part(item):
                    problems.append(f"{where}._target_={item}: Hydra may only run classes of its own plugins and of ours; remove it")
                elif key in ("()", "class") and where.startswith(("hydra.job_logging", "hydra.hydra_logging")):
                    if not LOGGING_PARTS.fullmatch(str(item)):
                        problems.append(f"{where}.{key}={item}: only the standard library's log handlers and formatters may be named here")
                else:
                    walk(item, f"{where}.{key}")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, f"{where}[{i}]")

    hydra_settings = OmegaConf.to_container(node, resolve=False)
    assert isinstance(hydra_settings, dict)
    walk(hydra_settings, "hydra")
    for part in ("launcher", "sweeper"):
        plugin = hydra_settings.get(part) or {}
        if plugin.get("_target_") in OWN_PLUGINS:
            problems += [
                f"hydra.{part}.{key}: is not read; {IGNORED.get(f'{part}.{key}', 'the settings of a sweep are below sweep')}"
                for key in plugin
                if key != "_target_"
            ]
    problems += find_ignored_settings(hydra_settings)
    for name in hydra_settings.get("job", {}).get("env_set") or {}:
        problems.append(f"hydra.job.env_set.{name}: settings may not change the environment; set {name} in your shell")
    return problems


IGNORED = {
    "mode": "a file cannot make a sweep of a run; type -m",
    "sweep.dir": "name the folder of a sweep with output_dir=<folder>",
    "sweep.subdir": "the folders of a sweep's runs are numbered; leave it out",
    "job.chdir": "paths are read from the folder where you type the command; leave it out",
    "sweeper.params": "type what varies behind -m, as in -m seed=0,1",
}
"""Settings of Hydra that our runs and sweeps do not read, with the advice for each."""
DEFAULTS = {"mode": None, "sweep.dir": "${output_dir}", "sweep.subdir": "${hydra.job.num}", "job.chdir": False}
"""Values of these settings in conf/ and in Hydra's own files."""


def find_ignored_settings(plain: Mapping[Any, Any]) -> list[str]:
    """Problems with changed settings of Hydra that would be ignored."""
    problems = []
    for key, default in DEFAULTS.items():
        part, _, name = key.rpartition(".")
        value = (plain.get(part) or {} if part else plain).get(name)
        if value != default:
            problems.append(f"hydra.{key}={getattr(value, 'name', value)}: is not read; {IGNORED[key]}")
    return problems


def is_hydra_part(path: Any) -> bool:
    """Whether Hydra may instantiate a class: it must be in one of Hydra's plugins or in this package."""
    package = str(path).split(".")[0]
    return (
        str(path) in OWN_PLUGINS or bool(HYDRA_PARTS.match(str(path))) and explain_wrong_target(path, [package], classes_only=True) is None
    )


def find_extension_problems(packages: Sequence[str]) -> list[str]:
    """Problems with the packages that the user typed."""
    return [
        f"extensions=[{name}]: there is no package {name} to import; put its parent folder on PYTHONPATH, or install it"
        for name in packages
        if not name.isidentifier() or find_module_file(name) is None
    ]


def get_settings_class(plain: Mapping[str, Any], packages: Sequence[str], problems: list[str]) -> dict[str, type]:
    """The dataclass that the method's `settings_class` names. `parse` uses it instead of the general one."""
    method = plain.get("method")
    if not isinstance(method, Mapping) or explain_wrong_target(method.get("settings_class"), packages) is not None:
        return {}
    module, _, name = str(method["settings_class"]).rpartition(".")
    from lexalign.config.schema import Method

    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        problems.append(f"method.settings_class={method['settings_class']}: {error}")
        return {}
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        problems.append(f"method.settings_class={method['settings_class']}: is no subclass of lexalign.config.schema.Method")
        return {}
    return {"method": cls}
