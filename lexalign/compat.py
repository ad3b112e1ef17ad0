"""Every change that we make to a library, and every private part of one that we use: why, and when it may go.

Nothing heavy is imported before it is asked for.
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

    Why: among the million objects that torch and its libraries make at import it finds next to none, and it takes a fifth of the time of a
    start. May go: when Python's collector skips a start by itself.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def freeze_first_imports() -> Iterator[None]:
    """During the block, no search either; what it imported is never searched again.

    Of several jobs in one process only the first imports: what later jobs find belongs to them and is not kept. Why and when it may go: as
    `pause_garbage_collection`.
    """
    imported = "transformers" in sys.modules
    with pause_garbage_collection():
        yield
        if not imported:
            gc.freeze()


@contextlib.contextmanager
def hold_template_clock(day: datetime.date) -> Iterator[None]:
    """Within the block, the function `strftime_now` of chat templates gives this day at noon.

    Reason: transformers gives templates the machine's clock and replaces any function that is passed beside the conversation, so rows
    tokenised on two days differ without a word. Goes when `apply_chat_template` takes a date.
    """
    from transformers.utils import chat_template_utils

    noon = datetime.datetime.combine(day, datetime.time(12))

    class HeldClock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:  # type: ignore[override]
            return noon

    before = chat_template_utils.datetime  # type: ignore[attr-defined]
    chat_template_utils.datetime = HeldClock  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        chat_template_utils.datetime = before  # type: ignore[attr-defined, misc]


@contextlib.contextmanager
def hide_wandb() -> Iterator[None]:
    """During the block, W&B looks as if it were not installed.

    Why: transformers imports it wherever it is installed, which costs a second and may open a connection. May go: when transformers
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

    Why: a decorator in it asks `torch.compile` for functions of its CPU fallback, which loads the whole compiler (a second). It accepts a
    refusal: the functions then run as they are. On a CPU with bfloat16 instructions it asks for a kernel that we do not let it use
    (`lexalign.models.loading`), and warns; the warning is left out. May go: when bitsandbytes compiles at the first call (0.50 does not).
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
    """During the block, the hub's HTTP client is what `wrap` makes of the one that it would use.

    Why: huggingface_hub has a public setter for the factory of its client and no public getter, and its own retries differ from call to
    call. Its log of every address, signed ones included, is silenced. May go: when it offers one setting for the retries of all calls.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    former = _http._GLOBAL_CLIENT_FACTORY
    messages = logging.getLogger("httpx2")
    level = messages.level
    messages.setLevel(logging.WARNING)
    set_client_factory(lambda: wrap(former()))
    try:
        yield
    finally:
        set_client_factory(former)
        messages.setLevel(level)


def get_hydra_parser() -> ArgumentParser:
    """The parser of Hydra's own options.

    Why: the command line is checked before Hydra reads it. May go: when Hydra has a public parser (1.4 has none either).
    """
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def make_hydra_loader(conf: Path, folders: Sequence[str], repository: Callable[[Any], Any]) -> Any:
    """Hydra's loader of configuration files over `conf` and the folders that come before it; `repository` wraps what reads them.

    Why: Hydra's public compose API reads every file anew for each composition, which takes most of the time of a sweep's check, and has no
    `--config-dir`. May go: when Hydra keeps the files that it has read.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    path = create_config_search_path(str(conf))
    for folder in folders:
        # Where Hydra itself puts it: its own schema must stay the last.
        path.prepend("command-line", f"file://{Path(folder).resolve()}", anchor=SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(config_search_path=path)
    loader.repository = repository(loader.repository)
    return loader


def apply_hydra_overrides(overrides: Sequence[Any], tree: Any) -> None:
    """Put the values of parsed overrides into a tree, in place, as Hydra does last.

    Why: files are merged once for each choice of groups, and the values are put in for each point of a sweep. May go: with
    `make_hydra_loader`.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), tree)
