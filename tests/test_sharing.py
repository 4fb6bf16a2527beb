"""Finished models for people and other programs: `commands.export` and `commands.chat`, on the small pipeline."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands.chat import _visible
from commands.export import _start, export
from distill.project.errors import ModelError, SettingsError
from distill.project.references import ModelReference
from distill.sharing.ancestry import Ancestor, ancestor_of
from distill.sharing.card import CardOrigin, write_card
from distill.sharing.hub import push, require_token
from tests.tiny_pipeline import built, environment, start

SECRET = "hf_" + "not" + "areal" + "token"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built pipeline that commands may write into."""
    return Path(shutil.copytree(built(tmp_path_factory), tmp_path_factory.mktemp("sharing") / "project"))


def command(root: Path, *arguments: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """A command as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=environment() | variables,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def exported(project: Path) -> Path:
    """The export of the small student."""
    done = command(project, "commands.export", "small", "minillm")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote exports/small-minillm\n" and done.stderr == ""
    return project / "exports/small-minillm"


def test_an_export_loads_as_any_model_and_answers_as_the_checkpoint(project: Path, exported: Path) -> None:
    files = {path.name for path in exported.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    model = AutoModelForCausalLM.from_pretrained(exported)
    ours = AutoModelForCausalLM.from_pretrained(project / "runs/small/minillm")
    tokenizer = AutoTokenizer.from_pretrained(exported)
    before = AutoTokenizer.from_pretrained(project / "runs/small/minillm")
    text = "Name three animals.\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == [before(text)["input_ids"]]
    assert torch.equal(model(ids).logits, ours(ids).logits)
    # what vLLM and `generate()` start from when nobody says otherwise
    assert model.generation_config.do_sample and model.generation_config.top_k == 0
    assert model.generation_config.max_new_tokens == 24
    assert model.generation_config.eos_token_id == before.eos_token_id
    assert model.config.use_cache and tokenizer.model_max_length == 256
    assert json.loads((exported / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    untyped: Any = model  # `generate` is typed for more kinds of model than this one
    said = untyped.generate(ids, attention_mask=torch.ones_like(ids))
    assert said.shape[1] <= ids.shape[1] + 24


def test_the_card_holds_metrics_settings_and_provenance(project: Path, exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    results = json.loads((project / "results/small.json").read_text())["minillm"]["toy_id"]["rouge_l"]
    (entry,) = card.data.eval_results
    assert entry.metric_value == results["mean"] and entry.dataset_name == "toy_id"
    low, high = results["ci95"]
    assert f"| toy_id | {results['mean']:.1f} ± {results['std']:.1f} | {low:.1f} to {high:.1f} |" in card.text
    assert "| `teacher_mix_alpha` | 0.2 |" in card.text and "Mini profile, for tests." in card.text
    assert "- code revision: " in card.text and f"- torch version: {torch.__version__}" in card.text


def test_a_teacher_is_exported_too_and_a_second_export_replaces_the_first(project: Path) -> None:
    for _ in range(2):
        done = command(project, "commands.export", "small", "teacher", "--to", "shared", "--dtype", "bfloat16")
        assert done.returncode == 0, done.stderr
    assert AutoModelForCausalLM.from_pretrained(project / "shared").dtype == torch.bfloat16
    assert "The teacher of the family `mini`" in (project / "shared/README.md").read_text()


def test_nothing_else_is_replaced(project: Path) -> None:
    done = command(project, "commands.export", "small", "minillm", "--to", "stages")
    assert done.returncode == 2 and done.stderr == (
        "error: stages exists and is no earlier export; name a new folder with --to\n"
    )
    assert (project / "stages/on_rows.py").is_file()


def test_what_is_not_built_is_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Path(shutil.copytree(project, tmp_path / "broken"))
    done = command(project, "commands.export", "small", "kd")
    assert done.returncode == 2
    assert done.stderr == "error: `kd` is no method of params.yaml; use init, sft, minillm, teacher\n"
    (project / "runs/small/sft/meta.json").write_text('{"left_out": true}')
    monkeypatch.chdir(project)
    known = "init, minillm, teacher"
    with pytest.raises(SettingsError, match=f"leaves `sft` of `small` out; give its section, or .* built: {known}$"):
        export("small", "sft", Path("out"), None)
    shutil.rmtree(project / "runs/small/sft")
    done = command(project, "commands.export", "small", "sft")
    assert done.returncode == 2
    assert done.stderr == f"error: runs/small/sft is not built; run `dvc repro`, or use one that is: {known}\n"
    shutil.rmtree(project / "runs")
    done = command(project, "commands.export", "small", "teacher")
    assert done.stderr == "error: runs/mini/teacher is not built; run `dvc repro`\n"


def test_pushing_wants_a_token_before_any_work(project: Path) -> None:
    done = command(project, "commands.export", "small", "sft", "--to", "pushed", "--push", "me/mine", HF_TOKEN="")
    assert done.returncode == 2 and "needs a token in the environment: export HF_TOKEN=" in done.stderr
    assert not (project / "pushed").exists()
    with pytest.raises(SettingsError, match="write it as owner/name"):
        require_token("mine", {"HF_TOKEN": SECRET})


def test_a_hub_out_of_reach_is_said_without_the_token(project: Path) -> None:
    done = command(
        project,
        *("commands.export", "small", "sft", "--to", "pushed", "--push", "me/mine"),
        HF_TOKEN=SECRET,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    assert done.returncode == 2, done.stderr
    assert "the hub did not take me/mine" in done.stderr and "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert (project / "pushed/model.safetensors").is_file(), "the folder is whole, to be pushed again"


def test_pushing_uploads_the_folder_to_a_private_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []

    class Hub:
        def __init__(self, token: str) -> None:
            calls.append(("token", token))

        def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
            calls.append(("create", name, private, exist_ok))

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            if repo_id == "me/full":
                raise OSError(f"no room for {SECRET}")
            calls.append(("upload", repo_id, folder_path))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert push(tmp_path, "me/mine", SECRET, public=False) == "https://hub/me/mine"
    assert calls == [("token", SECRET), ("create", "me/mine", True, True), ("upload", "me/mine", tmp_path)]
    with pytest.raises(ModelError, match="no room for …"):
        push(tmp_path, "me/full", SECRET, public=True)


def test_a_card_without_results_says_so() -> None:
    prompt = {"with_input": "{instruction}{input}", "without_input": "{instruction}"}
    limits = {"max_prompt_tokens": 1, "max_response_tokens": 2, "chat_template": True}
    meta = {"prompt": prompt | limits, "settings": {"epochs": 1}, "seed": 3, "versions": {}}
    card = write_card(CardOrigin("s", "kd", "", Ancestor("a/b", "a/b"), meta, {}, {}, {}, {"mine": {}}, {"top_k": 0}))
    assert "`kd` was not evaluated." in card and "base_model: a/b" in card and "apply_chat_template" in card


def test_a_card_names_the_base_and_the_licences(tmp_path: Path) -> None:
    prompt = {"with_input": "{instruction}{input}", "without_input": "{instruction}"}
    meta = {"prompt": prompt | {"max_prompt_tokens": 1, "max_response_tokens": 2}, "settings": {}, "seed": 3}
    local = tmp_path / "small one"
    local.mkdir()
    plain = ancestor_of(ModelReference(path=str(local)))
    assert plain == Ancestor("small one", None, "not stated", local=True)
    (local / "README.md").write_text("---\nlicense: mit\nbase_model: [a/b]\n---\nwords")
    found = ancestor_of(ModelReference(path=str(local)))
    origin = CardOrigin(
        "s", "kd", "", found, meta, {}, {}, {}, {}, {}, data_licence="CC BY 4.0", cut="`drop_layers: 1`"
    )
    card = write_card(origin)
    assert "go back to the model `small one` of a local folder, made from `a/b` (licence: mit), cut by" in card
    assert "license: mit" in card and "base_model: a/b" in card and "training rows: CC BY 4.0" in card
    assert "random" not in card and str(tmp_path) not in card
    meta["settings"] = {"source": {"path": str(local)}, "copied": False}
    teacher = write_card(CardOrigin("f", "teacher", "", found, meta, {}, {}, {}, {}, {}, taken=True))
    assert "None in this pipeline. Licence of the model: mit." in teacher and str(tmp_path) not in teacher
    assert "taken as it is from the model `small one`" in teacher and "nothing was trained here" in teacher
    assert "trained by" not in teacher and "trained on prompts" not in teacher
    assert "go back to random ones" in write_card(CardOrigin("s", "kd", "", None, meta, {}, {}, {}, {}, {}))


def test_a_card_goes_back_to_the_model_that_a_method_starts_from() -> None:
    student = {"model": None, "init": {"from": "a/init"}, "minillm": {"lr": 1}, "sft": {"from": "a/sft"}, "kd": {}}
    own = {"tokens": "own samples"}
    assert _start(student, "minillm", own) == ("a/init", "")
    assert _start(student, "sft", {}) == ("a/sft", "")
    assert _start(student, "kd", {"tokens": "data"}) == (None, "")
    student |= {"model": {"source": "a/base", "drop_layers": [1]}, "init": {"lr": 1}}
    assert _start(student, "minillm", own) == ("a/base", "`drop_layers: [1]`")


@pytest.mark.parametrize("written", ["released: 2024-13-45", "a: [", "- a list", "a: {" * 2000])
def test_a_card_that_cannot_be_read_states_nothing(written: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{written}\n---\nwords")
    assert ancestor_of(ModelReference(path=str(tmp_path))).licence == "not stated"


def test_chat_answers_what_comes_through_a_pipe(project: Path) -> None:
    asked = "Name three animals.\n\nWhich animals are here?\tA \x1b[31mcat.\n"
    done = command(project, "commands.chat", "small", given=asked)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    heads = [line for line in lines if "Teacher" in line and "SFT" in line and "MiniLLM" in line]
    assert len(heads) == 2, done.stdout
    assert "> Which animals are here?" in lines and "  A \\x1b[31mcat." in lines and "\x1b" not in done.stdout
    assert "temperature 1, top_p 1, top_k 0" in done.stdout
    assert command(project, "commands.chat", "small", given=asked).stdout == done.stdout, "the same draws every time"


def test_chat_asks_only_whom_it_is_told_to(project: Path) -> None:
    done = command(project, "commands.chat", "small", "--models", "minillm", "--temperature", "0.5", given="Hello?\n")
    assert "MiniLLM" in done.stdout and "Teacher" not in done.stdout and "temperature 0.5" in done.stdout
    wrong = command(project, "commands.chat", "small", "--models", "dpo")
    assert wrong.returncode == 2 and "`dpo` is none of the models: teacher, sft, minillm" in wrong.stderr
    cold = command(project, "commands.chat", "small", "--models", "sft", "--temperature", "0")
    assert cold.returncode == 2 and "the command.temperature" in cold.stderr


@pytest.mark.parametrize("typed", [b"\x03", b"\x04"], ids=["ctrl-C", "ctrl-D"])
def test_chat_on_a_terminal_ends_calmly(project: Path, typed: bytes) -> None:
    outside, inside = pty.openpty()
    chat = subprocess.Popen(
        [sys.executable, "-m", "commands.chat", "small", "--models", "sft"],
        cwd=project,
        env=environment() | {"TERM": "dumb"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        preexec_fn=os.setsid,
        close_fds=True,
    )
    os.close(inside)
    said = b""
    while b"Prompt: " not in said:
        said += os.read(outside, 1024)
    for _ in range(3):
        if typed == b"\x03":
            chat.send_signal(2)  # this terminal is nobody's controlling one, so the key itself would send nothing
        else:
            os.write(outside, typed)
        # A signal in the moment between the prompt and the wait for keys is only seen with the next one.
        with suppress(subprocess.TimeoutExpired):
            assert chat.wait(timeout=10) == 0
            break
    assert chat.poll() == 0
    os.close(outside)
    assert b"Traceback" not in said


def test_words_of_a_model_steer_no_terminal() -> None:
    assert _visible("a\nb\x1b[2J\r\x07\u202e") == "a\nb\\x1b[2J\\r\\x07\\u202e"


def test_chat_without_models_says_what_to_do(project: Path, tmp_path: Path) -> None:
    for name in ("params.yaml", "profiles", "distill", "commands"):
        source = project / name
        (tmp_path / name).symlink_to(source)
    process = start(tmp_path, sys.executable, "-m", "commands.chat", "small")
    said = process.communicate()[0]
    assert process.returncode == 2 and "no model of `small` is built; run `make repro` first" in said
