"""Stages that their profile divides between processes, as a person runs them: by DVC, under Prefect, by hand."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.launched_stage import wait_for, write_program
from tests.tiny_pipeline import MINI, ROOT, SMALL, built, dvc, edit, make, run, start

pytest_plugins = ["tests.stage_fixtures"]


def distilled(project: Path) -> tuple[bytes, dict[str, list[list[float]]]]:
    """The weights that MiniLLM's stage comes to, and its curves."""
    process = start(
        project, sys.executable, "-m", "stages.on_own_samples", "small", "minillm", "minillm", PYTHONPATH=str(ROOT)
    )
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    made = project / "runs/small/minillm"
    curves = {
        name: [
            [float(x) for x in row.split()] for row in Path(f"{made}.curves/{name}.tsv").read_text().splitlines()[1:]
        ]
        for name in ("reverse_kl", "response_tokens", "valid_loss")
    }
    return (made / "model.safetensors").read_bytes(), curves


@pytest.mark.slow
def test_minillm_in_two_processes_with_a_whole_teacher_and_a_divided_one(project: Path) -> None:
    _, alone = distilled(project)
    edit(project / MINI, "hardware.processes", 2)
    whole, together = distilled(project)
    for name, rows in alone.items():
        assert [row[0] for row in together[name]] == [row[0] for row in rows], name
        assert [row[1] for row in together[name]] == pytest.approx([row[1] for row in rows], rel=1e-4), name
    edit(project / MINI, "hardware.teacher", {"shard": True})
    assert distilled(project) == (whole, together)


def validation_losses(made: Path) -> list[float]:
    """Of a finished run. Weights say less: GPT-2's key biases have no gradient but rounding, which Adam scales."""
    return [float(row.split()[1]) for row in Path(f"{made}.curves/valid_loss.tsv").read_text().splitlines()[1:]]


def test_dvc_runs_a_stage_in_two_processes(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """DVC's variables are inherited by the processes; what they make is one process's, but for rounding."""
    root = Path(shutil.copytree(built(tmp_path_factory), tmp_path / "clone"))
    made = root / "runs/small/sft"
    alone = validation_losses(made)
    edit(root / MINI, "hardware.processes", 2)
    said = dvc(root, "repro", "--force", "--single-item", "sft@small")
    assert "Running stage 'sft@small'" in said and "waiting for it to end" not in said
    # The small model has dropout, which each process draws for its own rows.
    assert validation_losses(made) == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
def test_every_training_stage_trains_in_several_processes(tmp_path: Path) -> None:
    """By DVC and under Prefect; with plain torch, with ZeRO 2 and 3, and under DeepSpeed in one process."""
    root = make(tmp_path / "clone", left_out=())
    rebuild = (sys.executable, "-m", "flows.rebuild", "--slots", "1")
    repro = (sys.executable, "-m", "dvc", "repro")
    shutil.copytree(ROOT / "tasks", root / "tasks")
    shutil.copy(ROOT / "prefect.toml", root)
    for command, processes, zero_stage, *stages in [
        (repro, 2, None, "teacher@mini", "init@small"),
        (rebuild, 2, 2, "sft@small", "minillm@small"),
        (rebuild, 2, 3, "kd@small", "single_step@small"),
        (repro, 1, 2, "seqkd@small", "seqkd_multi@small"),
    ]:
        edit(root / MINI, "hardware.processes", processes)
        edit(root / MINI, "hardware.zero_stage", zero_stage)
        run(root, *command, *stages)
        for stage in stages:
            what, _, who = stage.partition("@")
            assert (root / "runs" / who / what / "model.safetensors").exists(), stage


# --- a stage that is ended, and begun again ---------------------------------------------------------------------------


@pytest.fixture
def long(project: Path) -> Path:
    """A project whose SFT takes 60 steps and is best at the end."""
    edit(project / MINI, f"{SMALL}.sft", {"learning_rate": 1e-3, "batch_size": 32, "epochs": 30, "select": "loss"})
    edit(project / MINI, f"{SMALL}.sft.evaluate_every", 5)
    edit(project / MINI, "hardware", {"threads": 1, "micro_batch": 8, "save_every": 7, "processes": 2})
    return project


def sft(root: Path, **variables: str) -> str:
    """What a whole run says."""
    process = start(
        root,
        sys.executable,
        "-m",
        "stages.on_rows",
        "small",
        "sft",
        "sft.py",
        "base",
        PYTHONPATH=str(ROOT),
        **variables,
    )
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    return said


def killed(root: Path, step: int, whom: str) -> str:
    """What a run says of which the launcher, or one process, is killed after `step` updates."""
    process = start(
        root, sys.executable, "-m", "stages.on_rows", "small", "sft", "sft.py", "base", PYTHONPATH=str(ROOT)
    )
    note = root / ".resume/progress/sft@small.json"
    wait_for(lambda: note.exists() and json.loads(note.read_text())["step"] >= step, seconds=200)
    workers = psutil.Process(process.pid).children()
    (process if whom == "launcher" else workers[1]).kill()
    said = process.communicate(timeout=60)[0]
    psutil.wait_procs(workers, timeout=5)
    assert not any(worker.is_running() for worker in workers)
    assert not (root / "runs/small/sft").exists()
    return said


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes_and_with_other_processes_too(long: Path) -> None:
    sft(long)
    made = long / "runs/small/sft"
    losses = validation_losses(made)
    assert losses.index(min(losses)) == len(losses) - 1, "the best step is the last"
    whole = load_file(made / "model.safetensors")
    for whom, hardware in [
        ("launcher", {"processes": 2}),
        ("a process", {"processes": 1}),
        ("launcher", {"processes": 2, "zero_stage": 3}),
        ("launcher", {"processes": 4, "zero_stage": 1}),
    ]:
        for left in (made, Path(f"{made}.curves"), long / ".resume"):
            shutil.rmtree(left)
        edit(long / MINI, "hardware.processes", 2)
        edit(long / MINI, "hardware.zero_stage", None)
        said = killed(long, 30, whom)
        if whom == "a process":
            assert said.startswith("error: process 1 of 2 was killed (SIGKILL)"), said
        assert {path.suffix for path in long.glob(".resume/sft@small/*/*/*")} == {".safetensors", ".json"}
        for name, value in hardware.items():
            edit(long / MINI, f"hardware.{name}", value)
        sft(long)
        assert validation_losses(made) == pytest.approx(losses, rel=1e-4), hardware
        if hardware == {"processes": 2}:
            found = load_file(made / "model.safetensors")
            assert all(torch.equal(found[name], weights) for name, weights in whole.items())
            assert validation_losses(made) == losses


@pytest.mark.slow
def test_another_clone_on_another_host_is_named_before_anything_is_trained(long: Path) -> None:
    other = Path(shutil.copytree(long, long.with_name("other")))
    rows = other / "data/mini/valid.parquet"
    rows.write_bytes(rows.read_bytes() + b" ")
    bin_folder = long.with_name("bin")
    bin_folder.mkdir()
    write_program(str(bin_folder / "ssh"), f'#!/bin/sh\nfor last; do :; done\nexec sh -c "cd {other}; ${{last#*;}}"\n')
    for root in (long, other):
        (root / "hosts.txt").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
        edit(root / MINI, "hardware.processes", 1)
        edit(root / MINI, "hardware.hostfile", "hosts.txt")
    path = f"{bin_folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = start(
        long, sys.executable, "-m", "stages.on_rows", "small", "sft", "sft.py", "base", PYTHONPATH=str(ROOT), PATH=path
    )
    (said,) = process.communicate(timeout=200)[0].splitlines()
    assert process.returncode == 2
    assert said.startswith("error: process 1 on ") and " in data/mini/valid.parquet; bring both clones" in said


@pytest.mark.slow
def test_a_process_without_a_share_takes_part(long: Path) -> None:
    """One prompt to validate and two rows to train on, for three processes."""
    import pandas

    for name, rows in {"valid": 1, "train": 2}.items():
        file = long / f"data/mini/{name}.parquet"
        pandas.read_parquet(file).iloc[:rows].to_parquet(file)
    edit(long / MINI, "hardware.processes", 3)
    edit(long / MINI, "hardware.micro_batch", 2)
    edit(long / MINI, f"{SMALL}.sft.batch_size", 6)
    edit(long / MINI, f"{SMALL}.sft.epochs", 5)
    assert "5/5 steps" in sft(long)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_the_rows_of_all(long: Path) -> None:
    """Only the longest row reaches the position whose weights are no numbers: one process sees it, the first tells."""
    import pandas

    rows = pandas.read_parquet(long / "data/mini/train.parquet").head(64)
    longest = max(len(row["prompt_ids"]) + len(row["response_ids"]) for _, row in rows.iterrows())
    file = long / "runs/small/base/model.safetensors"
    weights = load_file(file)
    weights["transformer.wpe.weight"][longest - 1] = float("nan")
    save_file(weights, file, {"format": "pt"})
    process = start(
        long, sys.executable, "-m", "stages.on_rows", "small", "sft", "sft.py", "base", PYTHONPATH=str(ROOT)
    )
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 2
    assert said.count("error: step ") == 1 and "the loss is nan; lower `learning_rate`" in said
    batch = (long / ".resume/sft@small.diverged/batch.jsonl").read_text().splitlines()
    seen = [json.loads(line) for line in batch]
    assert len(seen) == 2 * 8, "a micro-batch of each process"
    assert longest in [len(row["input_ids"]) for row in seen]
