"""A setting that is typed twice takes its last value, and that is said."""

import pytest
from experiment_runner import World

from lexalign.config.command_line import arrange_words
from lexalign.config.overrides import keep_last


@pytest.mark.parametrize(
    ("typed", "left", "said"),
    [
        (["seed=1", "seed=2"], ["seed=2"], ["seed: is typed 2 times (seed=1, seed=2); the last one is taken"]),
        (["method=dpo", "a=1", "method=gdpo"], ["a=1", "method=gdpo"], ["method: is typed 2 times (method=dpo, method=gdpo); the last"]),
        (["a.b=1", "++a.b=2", "a.b=3"], ["a.b=3"], ["a.b: is typed 3 times"]),
        (["seed=0,1", "seed=2,3"], ["seed=2,3"], ["seed: is typed 2 times"]),
        (["a=1", "a.b=2"], ["a=1", "a.b=2"], []),
    ],
)
def test_the_last_one_is_kept(typed, left, said):
    kept, notes = keep_last(typed)
    assert kept == left and len(notes) == len(said) and all(note.startswith(part) for note, part in zip(notes, said, strict=True))


def test_whatever_the_form(capsys):
    assert arrange_words(["seed=1", "-m", "--seed=2"]) == ["-m", "seed=2"]
    assert "the last one is taken" in capsys.readouterr().err


def test_as_a_script_with_more_settings_types_it(tmp_path):
    done = World(tmp_path).type("stage=sft", "tracking=none", "train.learning_rate=1e-3", "dry_run=true", "train.learning_rate=2e-3")
    assert done.returncode == 0 and "train.learning_rate: is typed 2 times" in done.stderr, done.stderr[-2000:]
    (config,) = tmp_path.glob("multirun/*/*/config.yaml")
    assert "learning_rate: 0.002" in config.read_text()
