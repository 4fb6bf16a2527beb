"""Supervised training of a teacher or student: what stages/sft.py, kd.py and seqkd.py share."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from distill.models.checkpoints import Adapted, RunRecord, elsewhere, require_elsewhere, save_checkpoint
from distill.models.lora import add_adapter
from distill.parallel.processes import Processes
from distill.project.randomness import key
from distill.runs.evidence import Evidence
from distill.text.examples import Example, read_examples
from distill.training.settings import SupervisedSettings
from distill.training.supervised import Objective, train_supervised
from stages.experiment import Experiment, read_experiment
from stages.training import after_all, agreed_fingerprint, training


def parse_experiment(description: str | None) -> Experiment:
    """The experiment that the command line `<who> <name>` names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("name", help="the section of the profile, and the folder written")
    arguments = parser.parse_args()
    return read_experiment(arguments.who, arguments.name)


def train_file(experiment: Experiment) -> Path:
    """The data's own responses."""
    return experiment.data / "train.parquet"


def read_train_rows(experiment: Experiment) -> list[Example]:
    """The rows this stage learns from: teacher and students may see different numbers of them."""
    rows = experiment.rows
    return read_examples(train_file(experiment), rows.teacher if experiment.who == experiment.family else rows.student)


def train(
    experiment: Experiment,
    objective: Objective,
    settings: SupervisedSettings,
    source: Path,
    read_rows: Callable[[], list[Example]],
) -> None:
    """Write runs/<who>/<name>, its curves and its run record; `source` is the file the rows come from."""
    section = "sft" if experiment.what == "teacher" else experiment.what
    batches = {f"{experiment.recipe}.{section}.batch_size": settings.batch_size}
    with training(experiment, batches, accumulated=True, lora=settings.lora is not None) as (processes, micro_batch):
        _train(experiment, objective, settings, source, read_rows, processes, micro_batch)


def _train(
    experiment: Experiment,
    objective: Objective,
    settings: SupervisedSettings,
    source: Path,
    read_rows: Callable[[], list[Example]],
    processes: Processes,
    micro_batch: int,
) -> None:
    record = RunRecord()
    tokenizer = experiment.tokenizer()
    base = Path("runs") / experiment.who / "base"
    adapted = None
    if settings.lora is not None:
        adapted = Adapted(settings.lora, elsewhere(base))
        if settings.lora.save == "adapter":
            require_elsewhere(adapted.base)  # now, not after the training
    inputs = [source, experiment.data / "valid.parquet", base]
    if objective.NEEDS_TEACHER:
        inputs.append(experiment.teacher)
    scratch = Path(".resume") / experiment.name / agreed_fingerprint(experiment, processes, settings, *inputs)
    teacher = experiment.load_teacher() if objective.NEEDS_TEACHER else None
    model = experiment.load(base)
    if settings.lora is not None:
        add_adapter(model, settings.lora, key(experiment.seed, "adapter", experiment.name) % 2**32)
    examples = read_rows()
    with after_all(processes), Evidence(experiment.name, tokenizer) if processes.is_first else nullcontext():
        curves = train_supervised(
            experiment.name,
            model,
            examples,
            settings,
            objective,
            experiment.hardware.model_copy(update={"micro_batch": micro_batch}),
            scratch,
            experiment.seed,
            teacher=teacher,
            validate=experiment.validation(tokenizer, processes),
            processes=processes,
        )
    if not processes.is_first:
        return
    meta = {**experiment.meta(settings), "rows": len(examples)}
    save_checkpoint(model, tokenizer, experiment.output, meta, adapted)
    curves.write(Path(f"{experiment.output}.curves"))
    record.write(Path(f"{experiment.output}.run.json"))
    shutil.rmtree(scratch.parent, ignore_errors=True)
