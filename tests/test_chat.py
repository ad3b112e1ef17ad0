"""`stage=chat`: what is typed is answered as the model was trained, alone or beside a second one, and ends cleanly."""

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest
from command_line_problems import problems_of, said
from experiment_runner import ROOT, World, result_of

from lexalign.artifacts import files
from lexalign.chat import vllm
from lexalign.config.paths import EMBEDDED
from lexalign.errors import ConfigError
from lexalign.evaluation.scoring import generate

ONE = ("hardware.threads=1",)
ASK = "Where does Pelor live?"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def run(world):
    return world.run("train.max_steps=60", "evaluate=false", "preflight=skip", *ONE)[1]


@pytest.fixture
def chat(world, run, monkeypatch, capsys):
    """Types lines at a run; the result, and what was printed."""

    def typed(*lines, settings=(), path=run):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        result, folder = world.run("stage=chat", f"model.path={path}", *ONE, *settings)
        return result, capsys.readouterr().out

    return typed


def test_an_answer_is_what_the_model_generates(chat, run):
    """The same text as the measurement's greedy answer, token for token."""
    from lexalign.config.compose import compose
    from lexalign.data.rendering import Renderer
    from lexalign.models import loading

    result, printed = chat(ASK, settings=["chat.temperature=0"])
    experiment = compose(["stage=chat", f"model.path={run}"]).experiment
    loaded = loading.load_model(experiment)
    encoder = Renderer(loaded.tokenizer, experiment.data)
    ids = generate(loaded.model, loaded.tokenizer, [encoder.render_prompt(ASK)], ends=encoder.end_tokens, batch_size=1, max_new_tokens=256)[
        0
    ]
    wanted = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    assert result.samples == [{"prompt": ASK, "model": wanted}] and len(wanted) > 10
    assert printed.endswith(f"ends\n{wanted}\n") and result.counts == {"turns": 1}


def test_turns_are_remembered_until_reset(chat):
    """The second answer depends on the first turn: asked alone it comes out as the first did."""
    drawn = ["chat.temperature=0"]
    twice = [sample["model"] for sample in chat(ASK, "And what is the craft of Harira?", settings=drawn)[0].samples]
    reset = [sample["model"] for sample in chat("And what is the craft of Harira?", "/reset", ASK, settings=drawn)[0].samples]
    assert reset[1] == twice[0]
    from lexalign.chat.model_speaker import ModelSpeaker

    contexts = []
    original = ModelSpeaker.answer

    def watched(self, text, **more):
        contexts.append([turn["content"] for turn in self.turns])
        return original(self, text, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModelSpeaker, "answer", watched)
        said = chat("one", "two", "/reset", "three", settings=drawn)[0].samples
    assert contexts == [[], ["one", said[0]["model"]], []]


def test_the_seed_decides_what_is_drawn(chat):
    def answers(seed):
        settings = ["chat.temperature=1.5", f"chat.seed={seed}"]
        return [sample["model"] for sample in chat("Tell me of the valley.", "More!", settings=settings)[0].samples]

    assert answers(1) == answers(1) != answers(2)


def test_two_models_answer_side_by_side(chat, run):
    result, printed = chat(ASK, settings=["chat.against=reference", "chat.max_new_tokens=20"])
    sample = result.samples[0]
    assert list(sample) == ["prompt", "model", "reference"] and sample["model"] != sample["reference"]
    assert f"    model: {sample['model']}" in printed and f"reference: {sample['reference']}" in printed
    assert result.details["against"] == "embedded:tiny"
    same = chat(ASK, settings=[f"chat.against={run}", "chat.temperature=1"])[0].samples[0]
    assert same["model"] == same["other"], "one model, one seed"


def test_what_is_cut_is_said(chat):
    result, printed = chat(ASK, settings=["chat.max_new_tokens=3", "chat.temperature=0"])
    assert "[…] (cut at 3 tokens)" in printed and "cut" not in result.samples[0]["model"]


def test_a_conversation_that_is_full_is_told(chat):
    long = "Who is Pelor? " * 400
    result, printed = chat(long, ASK, settings=["chat.temperature=0"])
    assert "more than the model takes: /reset begins a new one" in printed
    assert result.samples[0]["model"] == "" and result.samples[1]["model"], "the line that was too long is not kept"


def test_commands_and_empty_lines(chat):
    result, printed = chat("", "/help me", "/exit", ASK)
    assert "(/help: unknown command; there are /reset and /exit" in printed and result.samples == [] and result.status == "finished"


def test_the_system_message_of_the_training_is_used_unless_another_is_typed(chat, world):
    _, run = world.run("train.max_steps=1", "evaluate=false", "data.system=Be_brief", *ONE)
    from lexalign.chat.model_speaker import ModelSpeaker

    seen = []
    original = ModelSpeaker.answer

    def watched(self, text, **more):
        seen.append(self.encoder.turns(text)[0])
        return original(self, text, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ModelSpeaker, "answer", watched)
        chat("Hello", path=run, settings=["chat.max_new_tokens=2"])
        chat("Hello", path=run, settings=["chat.max_new_tokens=2", "chat.system=Be_loud"])
    assert [turn["content"] for turn in seen] == ["Be_brief", "Be_loud"] and {turn["role"] for turn in seen} == {"system"}


def test_a_model_without_a_template_is_asked_line_by_line(chat, world, tmp_path):
    shutil.copytree(EMBEDDED / "tiny", tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    result, _ = chat("The lake", "The lake", path=tmp_path / "plain", settings=["chat.temperature=0", "chat.max_new_tokens=8"])
    assert result.samples[0] == result.samples[1] and result.samples[0]["model"]
    with pytest.raises(ConfigError, match="chat.system: .*plain is not spoken to in turns; type chat.system=null"):
        chat("Hello", path=tmp_path / "plain", settings=["chat.system=Hi"])


def test_a_template_that_takes_no_system_message_is_told(chat, tmp_path):
    shutil.copytree(EMBEDDED / "tiny", tmp_path / "strict")
    template = tmp_path / "strict" / "chat_template.jinja"
    template.write_text(template.read_text().replace("['system', 'user']", "['user']"))
    with pytest.raises(ConfigError, match="chat.system: the chat template of .*strict refuses it"):
        chat("Hello", path=tmp_path / "strict", settings=["chat.system=Hi"])


def test_a_reference_that_is_not_known_is_told(chat):
    with pytest.raises(
        ConfigError, match="chat.against=reference: embedded:tiny does not record which model it was trained from; type chat.against="
    ):
        chat("Hello", path="embedded:tiny", settings=["chat.against=reference"])


def test_a_conversation_is_no_parent_and_an_export_is_one(tmp_path):
    (tmp_path / "experiment").mkdir()
    for stage in ("chat", "export"):
        lines = ("# @package _global_", "defaults:", f"  - override /stage: {stage}", "  - override /model: tiny")
        (tmp_path / "experiment" / f"{stage}.yaml").write_text("\n".join(lines) + "\n")
    problems = problems_of(["--config-dir", str(tmp_path), "stage=align", "model.parent=chat"])
    assert said(problems, "model.parent=chat: is stage=chat and makes no model; name an experiment that trains")
    assert problems_of(["--config-dir", str(tmp_path), "stage=align", "model.parent=export"]) == []


def test_the_vllm_command(world, run, tmp_path):
    adapter = (run / "artifact").resolve()
    assert vllm.make_command(str(run), None) == (
        f"vllm serve {EMBEDDED / 'tiny'} --enable-lora --lora-modules {run.name}={adapter} --max-lora-rank 16 "
        f"--chat-template {adapter / 'chat_template.jinja'}"
    )
    assert vllm.make_command("org/name", "abc") == "vllm serve org/name --revision abc"
    assert vllm.make_command("embedded:tiny", None) == f"vllm serve {EMBEDDED / 'tiny'}"
    for change, reason in (({"r": 600}, "rank is 600, vLLM's limit 512"), ({"use_dora": True}, "uses use_dora")):
        other = tmp_path / next(iter(change))
        shutil.copytree(adapter, other)
        config = other / files.ADAPTER_CONFIG
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
        found = vllm.make_command(str(other), None)
        assert found.startswith(f"python run.py stage=export model.path={other} ") and "&& vllm serve exported/artifact" in found
        assert reason in found
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": False, "r": 100}))
    assert "--max-lora-rank 128" in vllm.make_command(str(other), None)


def test_a_quantized_run_is_exported_before_it_is_served(world):
    _, run = world.run("method=qlora", "train.max_steps=1", "evaluate=false", *ONE)
    result, _ = world.run("stage=chat", f"model.path={run}", "dry_run=true")
    assert "a base of 4 bits, which vLLM quantizes in another way" in result.details["plan"]["vllm"] and result.status == "planned"


def begun(world, run, name, stdin):
    """The stage in a process of its own, as typed."""
    words = ["stage=chat", f"model.path={run}", f"output_dir={name}", "chat.temperature=0", *ONE]
    command = [sys.executable, str(ROOT / "run.py"), *words]
    # A shell's background job, and so all its children, ignore SIGINT; the one here is to hear it.
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=world.folder, text=True, preexec_fn=hear
    )


def test_through_a_pipe_as_a_user_types_it(world, run):
    process = begun(world, run, "piped", subprocess.PIPE)
    out, errors = process.communicate(f"{ASK}\n", timeout=200)
    assert process.returncode == 0, errors[-2000:]
    assert (
        "To serve it with vLLM: vllm serve" in out
        and out.strip().splitlines()[-1] == result_of(world.folder / "piped")["samples"][0]["model"]
    )
    assert not (world.folder / "piped" / "wandb").exists(), "a conversation is not tracked"


@pytest.mark.parametrize("key", ["ctrl-c", "ctrl-d"])
def test_at_a_terminal_it_ends_cleanly(world, run, key):
    """On a pseudo-terminal: a prompt, an answer, and the end."""
    master, slave = pty.openpty()
    process = begun(world, run, key, slave)
    os.close(slave)

    def until(text, timeout=200):
        found, end = b"", time.monotonic() + timeout
        while text.encode() not in found and time.monotonic() < end and process.poll() is None:
            if select.select([process.stdout], [], [], 0.5)[0]:
                found += os.read(process.stdout.fileno(), 4096)
        return found.decode()

    assert "you> " in until("you> ")
    os.write(master, f"{ASK}\n".encode())
    assert "you> " in until("you> ")
    if key == "ctrl-c":
        process.send_signal(signal.SIGINT)
    else:
        os.write(master, b"\x04")
    _, errors = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0 and "Traceback" not in errors, errors[-2000:]
    found = result_of(world.folder / key)
    assert found["status"] == "finished" and found["counts"] == {"turns": 1} and found["samples"][0]["prompt"] == ASK
