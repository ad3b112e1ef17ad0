"""All changes to libraries and all uses of their private parts, each with the reason and when it may go.

Heavy imports happen only inside the functions.
"""

import contextlib
import datetime
import gc
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """During the block, Python does not search for cycles of unused objects.

    Why: the search finds almost none among the million objects that torch and its libraries make at import, and it takes a fifth of the
    start time. May go: when Python's collector does this itself.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def freeze_first_imports() -> Iterator[None]:
    """During the block, no search for cycles of unused objects; the objects of its imports are never searched later.

    In a process with several jobs, only the first job imports. Objects of later jobs are not frozen. Why and when it may go: see
    `pause_garbage_collection`.
    """
    was_imported = "transformers" in sys.modules
    with pause_garbage_collection():
        yield
        if not was_imported:
            gc.freeze()


@contextlib.contextmanager
def hold_template_clock(day: datetime.date) -> Iterator[None]:
    """Within the block, the function `strftime_now` of chat templates gives this day at noon.

    Why: transformers gives templates the machine's clock and replaces any other function with this name, so rows tokenised on two days
    differ silently. May go: when `apply_chat_template` accepts a date.
    """
    from transformers.utils import chat_template_utils

    noon = datetime.datetime.combine(day, datetime.time(12))

    class HeldClock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return noon

    original = chat_template_utils.datetime  # type: ignore[attr-defined]
    chat_template_utils.datetime = HeldClock  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        chat_template_utils.datetime = original  # type: ignore[attr-defined, misc]


@contextlib.contextmanager
def hide_wandb() -> Iterator[None]:
    """During the block, W&B looks as if it were not installed.

    Why: transformers imports it if it is installed, which takes a second and may open a connection. May go: when transformers
    imports it for `report_to="wandb"` only.
    """
    is_hidden = "wandb" not in sys.modules
    if is_hidden:
        sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_hidden:
            sys.modules.pop("wandb", None)


def import_bitsandbytes_lightly() -> None:
    """Import bitsandbytes, as PEFT will, without torch's compiler.

    Why: a decorator in it asks `torch.compile` for functions of its CPU fallback, which loads the whole compiler (a second). It accepts an
    error, and then does not compile the functions. On a CPU with bfloat16 instructions it warns about a kernel that we do not use
    (`lexalign.models.loading`); this warning is hidden. May go: when bitsandbytes compiles at the first call (0.50 does not).
    """
    if "bitsandbytes" in sys.modules:
        return
    import torch

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not compiled at import")

    compiler, torch.compile = torch.compile, refuse  # type: ignore[assignment]
    messages = logging.getLogger("bitsandbytes")
    level = messages.level
    messages.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        pass
    finally:
        torch.compile = compiler
        messages.setLevel(level)


@contextlib.contextmanager
def replace_hub_client(wrap: Callable[[Any], Any]) -> Iterator[None]:
    """During the block, the hub uses the HTTP client that `wrap` returns for its usual client.

    Why: huggingface_hub has a public setter for the factory of its client and no public getter, and its own retries differ from call to
    call. Its log of every address, signed ones included, is silenced. May go: when it offers one setting for the retries of all calls.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    original = _http._GLOBAL_CLIENT_FACTORY
    messages = logging.getLogger("httpx2")
    level = messages.level
    messages.setLevel(logging.WARNING)
    set_client_factory(lambda: wrap(original()))
    try:
        yield
    finally:
        set_client_factory(original)
        messages.setLevel(level)


def get_hydra_parser() -> ArgumentParser:
    """The parser of Hydra's own options.

    Why: the command line is checked before Hydra reads it. May go: when Hydra has a public parser (1.4 has none either).
    """
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def make_hydra_loader(conf: Path, folders: Sequence[str], repository: Callable[[Any], Any]) -> Any:
    """Hydra's loader of configuration files in `conf` and in the folders with higher priority. `repository` wraps the reader of the files.

    Why: Hydra's public compose API reads every file anew for each composition, which takes most of the time of a sweep's check, and has no
    `--config-dir`. May go: when Hydra keeps the files that it has read.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    path = create_config_search_path(str(conf))
    for folder in folders:
        # At the same position as in Hydra: its own schema must stay the last.
        path.prepend("command-line", f"file://{Path(folder).resolve()}", anchor=SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(config_search_path=path)
    loader.repository = repository(loader.repository)
    return loader


def apply_hydra_overrides(overrides: Sequence[Any], tree: Any) -> None:
    """Set the values of parsed overrides in a tree, in place. Hydra does this as its last step.

    Why: files are merged once for each choice of groups, and only the values are set for each point of a sweep. May go: with
    `make_hydra_loader`.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), tree)
