"""DVC stage: train a teacher or student on rows: the data's, or responses that the teacher sampled.

python -m stages.on_rows <family|student> <section> <objective> <start>
python -m stages.on_rows tiny kd kd.py base                         on the data's rows
python -m stages.on_rows tiny seqkd sft.py base --teacher-samples   on the teacher's samples
"""

from __future__ import annotations

import argparse
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.project.errors import run_stage
from distill.training.objective import RowObjective, load_row_objective, with_objective
from distill.training.settings import SampledRowsSettings, SupervisedSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distill.models.checkpoints import Adapted, RunRecord
    from distill.parallel.processes import Processes
    from distill.runs.curves import Curves
    from distill.text.examples import Example
    from distill.training.supervised import Lesson
    from stages.experiment import Experiment


@dataclass(frozen=True)
class RowsJob:
    """What the command asks for."""

    experiment: Experiment
    objective: RowObjective
    settings: SupervisedSettings
    start: Path
    """The checkpoint that training starts from."""
    rows: Path
    """The file of the rows."""
    method: dict[str, str]
    """The objective and where the tokens come from, for meta.json."""

    @property
    def inputs(self) -> list[Path]:
        """Every file and folder that the weights follow from."""
        teacher = [self.experiment.teacher] if self.objective.NEEDS_TEACHER else []
        return [self.rows, self.experiment.data / "valid.parquet", self.start, *teacher]


def main() -> None:
    """Write runs/<who>/<section>, its curves and its run record."""
    from stages.training import training

    job = read_job()
    if job is None:
        return
    experiment, settings = job.experiment, job.settings
    batches = {f"{experiment.recipe}.{experiment.section}.batch_size": settings.batch_size}
    with training(experiment, batches, accumulated=True, lora=settings.lora is not None) as (processes, micro_batch):
        train(job, processes, micro_batch)


def read_job() -> RowsJob | None:
    """The job that the command line names; None where the profile gives a finished checkpoint instead, or none."""
    from stages.experiment import read_experiment
    from stages.stand_in import stand_in

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", help="a family (for its teacher) or a student")
    parser.add_argument("section", help="the section of the profile, and the folder written")
    parser.add_argument("objective", help="a file in distill/objectives")
    parser.add_argument("start", choices=("base", "init"), help="the checkpoint that training starts from")
    parser.add_argument("--teacher-samples", action="store_true", help="train on runs/<family>/pseudo.parquet")
    arguments = parser.parse_args()
    experiment, objective = read_experiment(arguments.who, arguments.section), load_row_objective(arguments.objective)
    tokens = "data, with the teacher's distribution" if objective.NEEDS_TEACHER else "data"
    if arguments.teacher_samples:
        tokens = "teacher's samples"
    name = f"{objective.LABEL} on the teacher's samples" if arguments.teacher_samples else objective.LABEL
    method = {"objective": arguments.objective.removesuffix(".py"), "tokens": tokens, "label": name}
    if stand_in(experiment, method):
        return None
    kind = SampledRowsSettings if arguments.teacher_samples else SupervisedSettings
    sampled = Path("runs") / experiment.family / "pseudo.parquet"
    return RowsJob(
        experiment,
        objective,
        experiment.settings(with_objective(kind, objective)),
        Path("runs") / experiment.who / arguments.start,
        sampled if arguments.teacher_samples else experiment.data / "train.parquet",
        method,
    )


def read_rows(job: RowsJob) -> list[Example]:
    """The rows to learn from; of the data, teacher and students may see different numbers."""
    from distill.text.examples import read_examples

    if isinstance(job.settings, SampledRowsSettings):
        return read_examples(job.rows, samples=job.settings.samples_per_prompt)
    limits, experiment = job.experiment.rows, job.experiment
    return read_examples(job.rows, limits.teacher if experiment.who == experiment.family else limits.student)


def adapter_of(job: RowsJob) -> Adapted | None:
    """How an adapter is to be saved; None where all weights are trained.

    Raises: ModelError when it is to be saved alone and its base does not come from elsewhere.
    """
    from distill.models.checkpoints import Adapted, elsewhere, require_elsewhere

    if job.settings.lora is None:
        return None
    adapted = Adapted(job.settings.lora, elsewhere(job.start))
    if job.settings.lora.save == "adapter":
        require_elsewhere(adapted.base)  # now, not after the training
    return adapted


def build(job: RowsJob, processes: Processes) -> tuple[PreTrainedModel, Lesson]:
    """The model at its start, with a fresh adapter where one is trained, and what it is to learn."""
    from distill.models.lora import add_adapter
    from distill.project.randomness import key
    from distill.training.supervised import Lesson

    experiment, settings = job.experiment, job.settings
    teacher = experiment.load_teacher() if job.objective.NEEDS_TEACHER else None
    model = experiment.load(job.start)
    if settings.lora is not None:
        add_adapter(model, settings.lora, key(experiment.seed, "adapter", experiment.name) % 2**32)
    validate = experiment.validation(experiment.tokenizer(), processes)
    lesson = Lesson(
        experiment.name,
        read_rows(job),
        settings,
        job.objective,
        experiment.seed,
        teacher,
        validate,
        validate.selector(settings.select),
    )
    return model, lesson


def train(job: RowsJob, processes: Processes, micro_batch: int) -> None:
    """Train, in as many processes as call this; the first writes the outputs."""
    from distill.models.checkpoints import RunRecord
    from distill.runs.evidence import Evidence
    from distill.training.supervised import train_supervised
    from stages.training import after_all, agreed_fingerprint

    record, experiment = RunRecord(), job.experiment
    adapted = adapter_of(job)
    scratch = Path(".resume") / experiment.name / agreed_fingerprint(experiment, processes, job.settings, *job.inputs)
    model, lesson = build(job, processes)
    hardware = experiment.hardware.model_copy(update={"micro_batch": micro_batch})
    evidence = Evidence(experiment.name, experiment.tokenizer()) if processes.is_first else nullcontext()
    with after_all(processes), evidence:
        curves = train_supervised(model, lesson, hardware, scratch, processes)
    if processes.is_first:
        write(job, model, adapted, curves, lesson, record)
        shutil.rmtree(scratch.parent, ignore_errors=True)


def write(
    job: RowsJob, model: PreTrainedModel, adapted: Adapted | None, curves: Curves, lesson: Lesson, record: RunRecord
) -> None:
    """Write the stage's outputs."""
    from distill.models.checkpoints import save_checkpoint
    from stages.first_look import doubt_finished
    from stages.training import told_selection

    experiment = job.experiment
    meta = {**experiment.meta(job.settings), **job.method, "rows": len(lesson.examples)}
    save_checkpoint(model, experiment.tokenizer(), experiment.output, meta, adapted)
    curves.write(Path(f"{experiment.output}.curves"))
    chosen = told_selection(experiment, curves, job.settings.select, lesson.by)
    record.write(Path(f"{experiment.output}.run.json"), **chosen)
    if losses := curves.points.get("valid_loss"):
        doubt_finished(experiment, model, min(loss for _, loss in losses), "after its training")


if __name__ == "__main__":
    run_stage(main)
