"""What the pages of the manual name is there: settings, options, files, links; generated pages are fresh, tables are the code's."""

import dataclasses
import importlib.util
import re
import subprocess
import sys

import pytest
from manual import BLOCK, DOCS, GROUPS, PAGES, ROOT, list_keys, list_options, load_generator, name_page, read_inline, read_table

from lexalign import errors
from lexalign.config import schema
from lexalign.evaluation.metrics import DIRECTIONS
from lexalign.training import signals


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_setting_and_option_that_is_named_exists(page):
    unknown = []
    for code in read_inline(page):
        for word in code.replace("'", " ").replace('"', " ").split():
            key, equals, value = word.partition("=")
            if re.fullmatch(rf"({'|'.join(GROUPS)}|train|evaluate|export|chat|download)\.[a-z_]+[a-z_.]*", key):
                ending = key.rpartition(".")[2]
                unknown += [word] if key not in list_keys() and ending not in ("py", "json", "jsonl", "yaml") else []
            elif equals and key in GROUPS and re.fullmatch(r"[a-z0-9_/,]+", value):
                unknown += [word for option in value.split(",") if option not in (*list_options(key), "null")]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_file_and_name_of_code_exists(page):
    missing = []
    for code in read_inline(page):
        if re.fullmatch(r"(lexalign|conf|tests|bench|docs|\.ci)/[\w./-]*", code):
            missing += [] if (ROOT / code).exists() else [code]
        elif re.fullmatch(r"lexalign(\.\w+)+", code):
            missing += [] if is_code(code) else [code]
    assert missing == []


def is_code(path: str) -> bool:
    """Whether a dotted path leads to a module of ours, or to a name that its text defines or hands on."""
    at = ROOT / path.replace(".", "/")
    if at.is_dir() or at.with_suffix(".py").is_file():
        return True
    module, _, name = path.rpartition(".")
    file = next(
        (file for file in (ROOT / f"{module.replace('.', '/')}.py", ROOT / module.replace(".", "/") / "__init__.py") if file.is_file()),
        None,
    )
    return file is not None and re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor and file.is_file() else []
        broken += [target] if not file.exists() or (anchor and anchor not in map(slug, headings)) else []
    assert broken == []


def test_the_page_of_the_settings_is_fresh():
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == load_generator().write_page(), "run: python docs/generate_configuration.py"


def test_the_settings_page_has_every_setting_and_option():
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    plain = {key for key in list_keys() if not any(other.startswith(f"{key}.") for other in list_keys())}
    assert {key for key in plain if f"`{key}`" not in text} == set()
    assert [f"{group}={name}" for group in GROUPS for name in list_options(group) if f"`{group}={name}`" not in text] == []


def test_readme_is_short_and_its_table_of_groups_is_whole():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 170
    table = {group.strip("`"): set(re.findall(r"`([\w/]+)`", options)) for group, options, *_ in read_table(readme, "group")}
    assert set(table) >= {"stage", "method", "adapter", "model", "data", "hardware", "tracking", "sweep", "experiment"}
    for group, options in table.items():
        assert options == set(list_options(group)) - ({"none"} if group in ("data", "model") else set()), group


def test_readme_tells_the_four_gdpo_apart():
    rows = read_table(ROOT / "README.md", "config")
    assert [row[0] for row in rows] == ["`gdpo`", "`gdpo_soft`", "`gdpo_flow`", "`gdpo_rl`"]
    assert [re.search(r"\d{4}\.\d{5}", row[2])[0] for row in rows] == ["2412.20299", "2409.06691", "2410.15096", "2601.05242"]
    assert rows == read_table(DOCS / "methods" / "gdpo.md", "config")


def test_the_exit_codes_are_those_of_the_errors():
    listed = {int(code) for row in read_table(DOCS / "running.md", "exit code") for code in re.findall(r"\d+", row[0])}
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.LexAlignError)]
    assert listed == {0} | {cls.exit_code for cls in classes} | set(signals.CODES.values())


def test_every_metric_that_a_search_can_take_is_explained():
    text = (DOCS / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in DIRECTIONS if f"`{name}`" not in text] == []


def test_the_messages_on_the_page_of_troubles_are_the_programs():
    sources = " ".join(file.read_text(encoding="utf-8") for file in (ROOT / "lexalign").rglob("*.py"))
    quoted = [text for row in read_table(DOCS / "troubleshooting.md", "what you see") for text in re.findall(r'"([^"]+)"', row[0])]
    assert len(quoted) > 5
    assert [text for text in quoted for part in text.split("…") if part.strip() not in sources] == []


def test_the_twenty_tasks_lead_to_files():
    rows = read_table(ROOT / "CONTRIBUTING.md", "task")
    assert len(rows) >= 20
    for task, places in rows:
        paths = re.findall(r"`([^`]+)`", places)
        assert paths and all((ROOT / path).exists() for path in paths), task


def test_the_picture_of_the_architecture_has_every_room():
    picture = (DOCS / "img" / "architecture.svg").read_text(encoding="utf-8")
    rooms = {file.parent.name for file in (ROOT / "lexalign").glob("*/__init__.py")}
    assert {room for room in rooms if f">{room}/<" not in picture} == set()


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_pictures_are_small():
    pictures = list((DOCS / "img").iterdir())
    assert {"sweep-report.png", "learning-curve.png", "architecture.svg"} <= {picture.name for picture in pictures}
    assert [picture.name for picture in pictures if picture.stat().st_size > 150_000] == []


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs-material is not installed: pip install mkdocs-material")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "configuration.html").is_file()


def test_the_words_of_other_toolkits_are_answered_as_the_page_says():
    """Keys on the page of migration that the program knows are answered with the setting that the page names."""
    from lexalign.config.parsing import OTHER_NAMES

    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    assert [f"{theirs} -> {ours}" for theirs, ours in OTHER_NAMES.items() if f"`{theirs}`" in text and f"`{ours}`" not in text] == []
    assert len([theirs for theirs in OTHER_NAMES if f"`{theirs}`" in text]) > 20


def test_the_schema_is_what_the_page_walks():
    assert {field.name for field in dataclasses.fields(schema.Experiment)} <= list_keys()
