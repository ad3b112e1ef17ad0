"""`--explain KEY` says a setting's value, where it was set and what it means, and runs nothing."""

import pytest

from lexalign.commands import explain


def test_a_setting_is_explained(capsys):
    assert explain.main(["train.learning_rate", "stage=align", "method=gdpo"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "train.learning_rate=0.003 (tuned=tiny_sft_gdpo)"
    assert "  method=gdpo says 5e-06" in rest and rest[-1] == "  Peak of the schedule."


@pytest.mark.parametrize("key", ["method.beta", "evaluate.judge.retries", "adapter.rank", "hardware.threads", "seed"])
def test_every_kind_of_setting_has_its_description(key, capsys):
    assert explain.main([key, "stage=align", "method=gdpo"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_what_is_no_setting_is_refused_with_the_nearest(capsys):
    assert explain.main(["method.bet", "stage=align"]) == 2
    assert "did you mean method.beta?" in capsys.readouterr().err


def test_overrides_that_do_not_compose_are_refused(capsys):
    assert explain.main(["method.beta", "method=dpoo"]) == 2
    assert "did you mean dpo?" in capsys.readouterr().err


def test_without_a_key_it_says_how_it_is_used(capsys):
    assert explain.main([]) == 2 and "lexalign explain KEY" in capsys.readouterr().out
