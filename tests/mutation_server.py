"""Runs tests on a copy of the package with one text replaced, once for each mutant, in a child forked from a process that has imported the
libraries but nothing of ours. Reads mutants from standard input as JSON, writes a line for each: its number, and whether a test failed."""

import contextlib
import importlib
import io
import json
import os
import sys
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "pytest", "hypothesis", "hydra", "safetensors.torch", "pyarrow",
             "transformers.models.llama.modeling_llama", "transformers.models.qwen3.modeling_qwen3",
             "transformers.models.gemma3.modeling_gemma3", "transformers.models.gpt2.modeling_gpt2")  # fmt: skip


def run_tests(copy: Path, names: list[str]) -> int:
    """In the child: pytest's exit code, on the copy."""
    import pytest

    sys.path[:0] = [str(copy), str(copy / "tests")]
    os.chdir(copy)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-c", "pyproject.toml", *names])
    lexalign = sys.modules.get("lexalign")
    if lexalign is not None and not str(lexalign.__file__).startswith(str(copy)):
        return 99  # another checkout was tested
    if code not in (0, 1, 2):
        sys.stderr.write(said.getvalue()[-2000:])
    return int(code)


def main(copy: Path) -> None:
    """Try each mutant in turn."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.dont_write_bytecode = True
    sys.path[:] = [entry for entry in sys.path if not (Path(entry or ".") / "lexalign").is_dir()]
    import torch

    torch.set_num_threads(1)
    for name in LIBRARIES:
        importlib.import_module(name)
    assert "lexalign" not in sys.modules
    for mutant in json.load(sys.stdin):
        file = copy / "lexalign" / mutant["file"]
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutant["old"], mutant["new"], 1) if mutant["old"] else text, encoding="utf-8")
        child = os.fork()
        if child == 0:
            code = 98
            try:
                code = run_tests(copy, mutant["tests"])
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        file.write_text(text, encoding="utf-8")
        print(json.dumps({"number": mutant["number"], "code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
