"""`commands.doctor`: what cannot work is said before the work, with the fix; what can, with what it takes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import doctor
from commands.doctor_plan import placement
from distill.data.audit import count_tokens
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.preflight import speeds
from distill.preflight.lengths import Lengths, read_lengths
from distill.preflight.machine import Gpu, Machine, version_findings
from distill.preflight.models import origin_findings, reference_origin
from distill.preflight.project import lock_findings, remote_finding, server_finding
from distill.preflight.report import duration
from distill.preflight.shapes import shape_of
from distill.preflight.tokenizers import tokenizer_finding
from distill.preflight.workload import on_policy_work, supervised_work
from distill.project.references import Reference
from distill.runs.hardware import HardwareSettings
from distill.text.settings import PromptSettings
from distill.text.tokenizers import learn_bpe
from distill.training.settings import SupervisedSettings
from tests.tiny_pipeline import edit, environment, make

ROOT = Path(__file__).resolve().parents[1]
MINI, GIB = Path("profiles/mini.yaml"), 2**30
ROOMY = Machine(gpus=(), memory=64 * GIB, available=60 * GIB, disk=100 * GIB, cores=8)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline, nothing built."""
    return make(tmp_path_factory.mktemp("doctor") / "project")


@pytest.fixture
def examine(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the doctor in a copy whose profile may be changed; exit code and what it printed."""
    subprocess.run(["cp", "-r", f"{sound}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, machine: Machine = ROOMY, **changed: object) -> tuple[int, str]:
        for place, value in changed.items():
            edit(MINI, place.replace("__", "."), value)
        monkeypatch.setattr(doctor, "read_machine", lambda root: machine)
        monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
        try:
            doctor.main()
        except SystemExit as ended:
            return int(str(ended.code)), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


def test_a_sound_project_is_left_in_peace(examine: Callable[..., tuple[int, str]]) -> None:
    assert examine("--quick") == (0, "")


def test_the_quick_form_runs_before_a_rebuild_and_imports_no_torch(sound: Path) -> None:
    for target in ("repro", "rebuild"):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert planned.index("commands.doctor --quick") < max(
            planned.find("tasks.side_by_side"), planned.find("flows.rebuild")
        )
    probe = "import sys; sys.argv = ['doctor', '--quick']; from commands import doctor; doctor.main(); "
    probe += "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=sound, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sequence_longer_than_the_model_stops(examine: Callable[..., tuple[int, str]]) -> None:
    code, said = examine("--quick", recipe__students__small__model__init__n_positions=100)
    assert code == 2
    assert said == (
        "stop  small, length: 224 tokens of prompt and response, and the student has 100 positions; lower "
        "prompt.max_prompt_tokens or max_response_tokens in the profile\n"
    )


def test_a_text_model_inside_another_stops_no_rebuild(examine: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """61,552 parameters are no 149 GiB; and a shape that nobody can read is a warning."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **sizes, **heads}}
    source = tmp_path / "source"
    source.mkdir()
    save_file({"weights": torch.zeros(61_552)}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(config))
    small = replace(ROOMY, memory=4 * GIB, available=4 * GIB, disk=4 * GIB)
    change = {"recipe__students__small__model": {"source": "source"}}
    assert examine("--quick", machine=small, **change) == (0, "")
    (source / "config.json").write_text("{}")
    code, said = examine("--quick", machine=small)
    assert (code, said) == (0, "warn  small, student: its shape cannot be read, so nothing is estimated\n")


def test_a_row_longer_than_the_model_stops_too(examine: Callable[..., tuple[int, str]]) -> None:
    code, said = examine("--quick", recipe__prompt__max_sequence_tokens=300)
    assert code == 2
    assert said.count("300 tokens of prompt and response, and the ") == 2, "teacher and student"
    assert "lower prompt.max_sequence_tokens in the profile" in said
    shorter = examine("--quick", recipe__prompt__max_sequence_tokens=210)
    assert shorter == (0, ""), "generation needs 224 and has them"


def test_lengths_follow_both_limits(tmp_path: Path) -> None:
    """By hand: rows of 20 with prompts of 8 at most, answers of 5 at most."""
    given = {"with_input": "{instruction} {input}", "without_input": "{instruction}", "max_prompt_tokens": 8}
    one = PromptSettings.model_validate({**given, "max_response_tokens": 5})
    two = one.model_copy(update={"max_sequence_tokens": 20})
    assert read_lengths(tmp_path, one, 7) == Lengths(7, None, 8.0, 5.0, 8, 5, 13, 5.0, known=False, limit=5)
    assert read_lengths(tmp_path, two, 7) == Lengths(7, None, 8.0, 12.0, 8, 19, 20, 5.0, known=False, limit=5)
    counts = [{"mean": 4.5, "p95": 6, "max": 7}, {"mean": 9.5, "p95": 16, "max": 17}]
    split = {"kept": 7, "prompt_tokens": counts[0], "response_tokens": counts[1]}
    (tmp_path / "report.json").write_text(json.dumps({"splits": {"train": split, "valid": split}}))
    more = {"valid_p95": 16, "prompt_p95": 6, "response_p95": 16, "limit": 5}
    assert read_lengths(tmp_path, two, None) == Lengths(7, 7, 4.5, 9.5, 7, 17, 20, 5.0, known=True, **more)
    roomy = two.model_copy(update={"max_sequence_tokens": 99})
    assert read_lengths(tmp_path, roomy, None).longest_sequence == 24, "the data have no longer row"


def test_a_validation_batch_holds_at_most_a_twentieth_of_the_longest_rows() -> None:
    lengths = Lengths(None, 100, 6.0, 4.0, 6, 40, 46, 4.0, known=True, valid_p95=10)
    assert lengths.validation_tokens(4) == 4 * 40
    assert lengths.validation_tokens(32) == 5 * 40 + 27 * 10
    assert replace(lengths, valid_p95=None).validation_tokens(32) == 32 * 40
    # The bound holds for rows as the audit counts them, and is met by the worst of them.
    rows = sorted([40] * 5 + [10] * 95)
    assert sum(rows[-32:]) == lengths.validation_tokens(32) and count_tokens([[0] * n for n in rows]).p95 == 10


def test_too_little_memory_stops_and_names_the_setting(examine: Callable[..., tuple[int, str]]) -> None:
    code, said = examine("--quick", machine=replace(ROOMY, memory=500 * 2**20, available=2**29))
    assert code == 2 and "stop  small, memory: teacher@mini needs about " in said
    assert "of it are activations (batch, backward): lower hardware.micro_batch" in said
    code, said = examine("--quick", machine=replace(ROOMY, available=2**28))
    assert code == 0 and said.startswith("warn  small, memory: ") and "end what else runs there" in said
    gpu = Gpu("small one", 16 * 2**20, 16 * 2**20)
    code, said = examine("--quick", machine=replace(ROOMY, gpus=(gpu,)))
    assert code == 2 and "the GPU has 16 MiB" in said
    code, said = examine("--quick", machine=replace(ROOMY, gpus=(replace(gpu, total=2**16, free=2**16),)))
    assert code == 2 and "use a larger machine, or a smaller model" in said


def test_what_is_built_already_is_only_warned_about(examine: Callable[..., tuple[int, str]]) -> None:
    for place in ("mini/teacher", "small/init", "small/sft", "small/minillm"):
        folder = Path("runs") / place
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
    code, said = examine("--quick", "--slots", "1", machine=replace(ROOMY, memory=2**29, available=2**29))
    assert code == 0 and said.startswith("warn  small, memory: ")


def test_a_full_disk_stops(examine: Callable[..., tuple[int, str]]) -> None:
    code, said = examine("--quick", machine=replace(ROOMY, disk=1000))
    assert code == 2 and "stop  disk: 0 MiB free" in said and "dvc cache dir --local" in said


def test_a_model_that_is_not_there_stops(examine: Callable[..., tuple[int, str]]) -> None:
    code, said = examine("--quick", recipe__students__small__model={"source": {"path": "../nowhere"}})
    assert code == 2 and "stop  small, student: ../nowhere holds no model" in said


def test_the_whole_form_shows_steps_tokens_memory_and_time(
    examine: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speeds, "SECONDS", 4.2)
    code, said = examine("small")
    assert code == 0
    assert "small: estimates" in said and "\nIn all: `make repro` takes about " in said
    (line,) = (line for line in said.splitlines() if "│ sft@small" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[:2] == ["sft@small", "4"]  # 64 rows, batches of 32, 2 epochs
    assert cells[4].endswith("MiB") and cells[5].endswith(" s")
    (line,) = (line for line in said.splitlines() if "│ minillm@small" in line)
    assert line.split("│")[2].strip() == "6"
    assert "ok  small, tokenizer: one, learned from the training rows" in said


def test_an_unknown_student_is_named(sound: Path) -> None:
    command = [sys.executable, "-m", "commands.doctor", "large", "--quick"]
    done = subprocess.run(command, cwd=sound, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "`large` is no student of params.yaml; use one of: small" in done.stderr


def test_the_hub_is_asked_only_for_what_is_not_here(tmp_path: Path) -> None:
    reference = Reference(hub="openai-community/gpt2", revision="main", unpinned=True)
    away = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    origin = reference_origin(reference, away)
    assert origin.where == "hub" and origin.shape is not None and origin.shape.layers == 12
    (found,) = origin_findings({"student": origin}, away, ask=True)
    assert found.level == "warn" and "out of reach, and not in its cache: openai-community/gpt2@main" in found.text
    (found,) = origin_findings({"student": origin}, away | {"HF_HUB_OFFLINE": "1"}, ask=False)
    assert found.level == "warn" and "unset HF_HUB_OFFLINE" in found.text
    cached = tmp_path / "hub/models--openai-community--gpt2"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    (cached / "snapshots/abc").mkdir(parents=True)
    (cached / "snapshots/abc/config.json").write_text('{"model_type": "gpt2", "n_layer": 3}')
    (cached / "snapshots/abc/model.safetensors").write_text("")
    origin = reference_origin(reference, away)
    assert origin.where == "here" and origin.shape is not None and origin.shape.layers == 3
    (found,) = origin_findings({"student": origin}, away, ask=True)
    assert found.level == "ok"


def test_different_tokenizers_stop(tmp_path: Path) -> None:
    for name, text in (("one", "the cat sat on the mat " * 9), ("two", "a dog ran in the fog " * 9)):
        learn_bpe([text], 270).save_pretrained(tmp_path / name)
    sources = {"teacher": Reference(path=str(tmp_path / "one")), "student": Reference(path=str(tmp_path / "two"))}
    found = tokenizer_finding(sources, {})
    assert found.level == "stop" and "SeqKD" in found.text
    same = tokenizer_finding({**sources, "student": sources["teacher"]}, {})
    assert same.level == "ok" and "teacher, student agree on" in same.text
    missing = tokenizer_finding({"teacher": Reference(path=str(tmp_path / "three"))}, {})
    assert missing.level == "ok" and "not here yet: teacher" in missing.text


def test_versions_are_held_against_the_constraints(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("torch==1.0.0\nPytest==0.1\n")
    (found,) = (f for f in version_findings(constraints, ("torch",)) if f.subject == "libraries")
    assert found.level == "warn" and "(proven: 1.0.0)" in found.text and "make setup" in found.text
    (found,) = (f for f in version_findings(constraints, ("no-such-library",)) if f.subject == "libraries")
    assert found.level == "stop" and "no-such-library not installed; run `make setup`" in found.text


def test_remote_locks_and_server(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    assert remote_finding(tmp_path, {}).text.startswith("none; ")
    config = tmp_path / ".dvc/config"
    config.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = ../nowhere\n")
    assert remote_finding(tmp_path, {}).level == "warn"
    (tmp_path / "nowhere").mkdir()
    assert remote_finding(tmp_path, {}).level == "ok"
    config.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = s3://bucket/path\n")
    assert remote_finding(tmp_path, {}).text == "store at s3://bucket/path, not asked"

    assert lock_findings(tmp_path)[0].text == "free"
    dead = subprocess.Popen(["true"])
    dead.wait()
    held = {"read": {"a": [{"pid": dead.pid, "cmd": "dvc repro"}]}, "write": {"b": {"pid": os.getpid(), "cmd": "x"}}}
    (tmp_path / ".dvc/tmp/rwlock").write_text(json.dumps(held))
    (found,) = lock_findings(tmp_path)
    assert found.level == "ok" and f"[{dead.pid}]" in found.text
    lock = tmp_path / ".dvc/tmp/rebuild.lock"
    lock.write_text(json.dumps({"pid": 12, "host": "h", "started": "noon", "flow_run": "none"}))
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert lock_findings(tmp_path)[0].level == "warn"
        assert "process 12 since noon is building in this clone" in lock_findings(tmp_path)[0].text

    assert "starts a temporary one" in server_finding(tmp_path, {}).text
    found = server_finding(tmp_path, {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    assert found.level == "warn" and "unset PREFECT_API_URL" in found.text


def test_work_is_counted_as_by_hand() -> None:
    shape = shape_of({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 99, "vocab_size": 5})
    lengths = Lengths(100, 10, 6.0, 4.0, 6, 4, 10, 4.0, known=True)
    settings = SupervisedSettings(learning_rate=1e-3, batch_size=32, epochs=4, evaluate_every=2)
    work = supervised_work(settings, 100, lengths, shape, None, cached=False)
    assert (work.steps, work.trained, work.generated) == (16, 4000.0, 80.0)  # two validations of ten rows
    body = shape.forward_operations(5.0, head=False)
    reading = 20 * 10 * shape.forward_operations(4.0)
    assert work.operations == pytest.approx(3 * (body * 4000 + 2 * 40 * 1600) + reading)
    chosen = {"learning_rate": 1e-3, "max_steps": 40, "rollouts": 16, "minibatch": 8, "evaluate_every": 40}
    minillm = on_policy_work(MiniLLMSettings.model_validate(chosen), lengths, shape, shape)
    # 40 steps of 8 responses, 8 steps a collection: 5 collections of 16; validation before and after
    assert (minillm.steps, minillm.trained, minillm.generated) == (40, 3200.0, 5 * 16 * 4.0 + 2 * 10 * 4.0)


def test_hardware_becomes_a_placement() -> None:
    place = placement(HardwareSettings(micro_batch=3, decode_batch=5, cache_teacher=False), "cuda", 2)
    assert (place.device, place.micro_batch, place.decode_batch, place.cache_teacher) == ("cuda", 3, 5, False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (720, "12 min"), (20_000, "5.6 h"), (1_000_000, "11.6 days")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
