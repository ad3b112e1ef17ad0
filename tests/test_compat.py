"""`lexalign/compat.py` is the one home of changes to libraries, and each says why it is there and when it may go."""

import ast
import re
import sys
from pathlib import Path

import lexalign
from lexalign import compat

ROOT = Path(lexalign.__file__).resolve().parent
PRIVATE = re.compile(r"from hydra\._internal(?!\.config_repository)|_GLOBAL_CLIENT_FACTORY|sys\.modules\[\"?\w+\"?\] =|torch\.compile =")


def test_each_change_says_why_and_when_it_goes():
    nodes = [node for node in ast.parse(Path(compat.__file__).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert len(nodes) >= 8
    for node in nodes:
        doc = (ast.get_docstring(node) or "").lower()
        assert re.search(r"why|reason", doc) and re.search(r"may go|goes when", doc), node.name


def test_no_other_module_changes_a_library():
    found = {
        str(file.relative_to(ROOT)): PRIVATE.findall(file.read_text())
        for file in ROOT.rglob("*.py")
        if file.name != "compat.py" and PRIVATE.search(file.read_text())
    }
    assert found == {}


def test_wandb_is_hidden_and_shown_again():
    before = sys.modules.pop("wandb", None)
    try:
        with compat.hide_wandb():
            try:
                import wandb  # noqa: F401
            except ImportError:
                hidden = True
            else:
                hidden = False
        assert hidden and "wandb" not in sys.modules
    finally:
        if before is not None:
            sys.modules["wandb"] = before


def test_torchs_compiler_is_as_it_was():
    import torch

    before = torch.compile
    compat.import_bitsandbytes_lightly()
    assert torch.compile is before


def test_the_hubs_client_is_wrapped_and_restored():
    from huggingface_hub.utils import _http

    former = _http._GLOBAL_CLIENT_FACTORY
    with compat.replace_hub_client(lambda client: ("ours", client)):
        kind, client = _http._GLOBAL_CLIENT_FACTORY()
        assert kind == "ours"
        client.close()
    assert _http._GLOBAL_CLIENT_FACTORY is former
