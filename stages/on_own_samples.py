"""DVC stage: train a student on its own samples (Algorithm 1 of MiniLLM), from `init`, its lowest-loss SFT.

python -m stages.on_own_samples <student> <section> <objective>
python -m stages.on_own_samples tiny minillm minillm
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.on_policy.settings import OnPolicySettings
from distill.project.errors import DivergedError, run_stage
from distill.training.objective import Objective, load_objective, with_objective

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.models.checkpoints import RunRecord
    from distill.on_policy.loop import OnPolicyRun, Task
    from distill.on_policy.pair import ModelPair
    from distill.parallel.processes import Processes
    from distill.runs.evidence import Evidence
    from distill.runs.resume import ResumeStore
    from stages.experiment import Experiment


@dataclass(frozen=True)
class OwnSamplesJob:
    """What the command asks for."""

    experiment: Experiment
    objective: Objective
    settings: OnPolicySettings
    method: dict[str, str]
    """The objective and where the tokens come from, for meta.json."""

    @property
    def init(self) -> Path:
        """The checkpoint that training starts from."""
        return Path("runs") / self.experiment.who / "init"

    @property
    def inputs(self) -> list[Path]:
        """Every file and folder that the weights follow from."""
        names = ["train.parquet", "valid.parquet", *(["corpus.parquet"] if self.settings.lm_coef else [])]
        return [*(self.experiment.data / name for name in names), self.init, self.experiment.teacher]


def main() -> None:
    """Write runs/<student>/<section>, its curves and its run record with the cost ledger."""
    from stages.training import training

    job = read_job()
    if job is None:
        return
    experiment, settings = job.experiment, job.settings
    batches = {"minibatch": settings.minibatch} | ({"lm_batch": settings.lm_batch} if settings.lm_coef else {})
    places = {f"{experiment.recipe}.{experiment.section}.{name}": batch for name, batch in batches.items()}
    with training(experiment, places, accumulated=False, lora=settings.lora is not None) as (processes, micro_batch):
        train(job, processes, micro_batch)


def read_job() -> OwnSamplesJob | None:
    """The job that the command line names; None where the profile gives a finished checkpoint instead, or none."""
    from stages.experiment import read_experiment
    from stages.stand_in import stand_in

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("section", help="the section of the profile, and the folder written")
    parser.add_argument("objective", help="a file or folder in distill/objectives")
    arguments = parser.parse_args()
    experiment, objective = read_experiment(arguments.student, arguments.section), load_objective(arguments.objective)
    # MiniLLM's name says it; that of an objective of any tokens does not.
    name = f"{objective.LABEL} on own samples" if hasattr(objective, "token_losses") else objective.LABEL
    method = {"objective": arguments.objective.removesuffix(".py"), "tokens": "own samples", "label": name}
    if stand_in(experiment, method):
        return None
    return OwnSamplesJob(
        experiment, objective, experiment.settings(with_objective(OnPolicySettings, objective)), method
    )


def read_task(job: OwnSamplesJob, tokenizer: PreTrainedTokenizerBase) -> Task:
    """The prompts, the data's responses where some are kept, and plain text where the loss has a term of it."""
    from distill.on_policy.loop import Task
    from distill.on_policy.plaintext import token_stream
    from distill.prompting.control_tokens import encode_documents
    from distill.text.examples import read_documents, read_examples

    experiment, eos_id = job.experiment, int(tokenizer.eos_token_id)
    plain_text = None
    if job.settings.lm_coef:
        documents = read_documents(experiment.data / "corpus.parquet")
        plain_text = token_stream(encode_documents(tokenizer, documents), eos_id)
    examples = read_examples(experiment.data / "train.parquet", experiment.rows.student)
    responses = [example.response_ids for example in examples] if job.settings.needs_rows else []
    prompts = [example.prompt_ids for example in examples]
    return Task(prompts, experiment.prompt.max_response_tokens, eos_id, plain_text, responses)


def load_models(job: OwnSamplesJob, processes: Processes) -> ModelPair:
    """The student at its start, and the teacher."""
    import torch

    from distill.on_policy.pair import load_pair
    from distill.parallel.processes import device
    from distill.project.randomness import key

    experiment, teacher = job.experiment, job.experiment.hardware.teacher
    return load_pair(
        job.init,
        experiment.teacher,
        job.settings.lora,
        experiment.dtype,
        device(),
        key(experiment.seed, "adapter", experiment.name) % 2**32,
        teacher.dtype,
        # Whole it may not fit where a part of it does.
        torch.device("cpu") if teacher.shard and processes.count > 1 else None,
    )


class Outputs:
    """What the stage writes: checkpoint, curves, record; and, of a run that goes wrong, its evidence."""

    def __init__(
        self, job: OwnSamplesJob, tokenizer: PreTrainedTokenizerBase, pair: ModelPair, processes: Processes
    ) -> None:
        """`run` is set once it is built; nothing is written before."""
        from distill.runs.evidence import Evidence

        self.job, self.tokenizer, self.pair, self.processes = job, tokenizer, pair, processes
        self.run: OnPolicyRun | None = None
        self.evidence: Evidence = Evidence(job.experiment.name, tokenizer, self.save)

    def save(self, folder: Path) -> None:
        """Write the best weights so far as a finished checkpoint."""
        from distill.models.checkpoints import save_checkpoint

        assert self.run is not None
        run, job = self.run, self.job
        kept = run.validations.kept
        best = {"best_step": kept.step, "best_valid_rouge_l": round(kept.rouge_l, 4)}
        meta = {**job.experiment.meta(job.settings), **job.method, **best}
        with run.at_best():
            save_checkpoint(run.student, self.tokenizer, folder, meta, self.pair.adapted)

    def on_collapse(self, fault: DivergedError) -> None:
        """Stop, warn once, or say nothing, as the machine's settings ask."""
        wanted = self.job.experiment.hardware.on_collapse
        if wanted == "stop":
            raise fault
        if wanted == "warn" and self.processes.is_first and not self.evidence.kept:
            print(f"warning: {fault}", file=sys.stderr)
            self.evidence.keep(fault)

    def write(self, record: RunRecord) -> None:
        """Write everything of a run that has come to its end."""
        from stages.training import told_selection

        assert self.run is not None
        run, output = self.run, self.job.experiment.output
        self.save(output)
        run.curves.write(Path(f"{output}.curves"))
        chosen = told_selection(self.job.experiment, run.curves, "rouge_l", run.validations.by)
        # The process's own marks begin anew with each phase; the ledger knows the highest.
        peaks: dict[str, Any] = run.ledger.memory.highest()
        record.write(
            Path(f"{output}.run.json"), **peaks, cost=run.ledger.summary(), shared_base=self.pair.shared, **chosen
        )
        print("\n".join(run.ledger.lines()))


def build(job: OwnSamplesJob, outputs: Outputs, pair: ModelPair, task: Task, micro_batch: int) -> OnPolicyRun:
    """The run at its first step."""
    from distill.on_policy.loop import Execution, OnPolicyRun
    from distill.on_policy.objective import own_sample_objective

    experiment, hardware, processes = job.experiment, job.experiment.hardware, outputs.processes
    execution = Execution(
        micro_batch,
        hardware.decode_batch,
        processes,
        zero=None if hardware.zero_stage is None else hardware,
        gradient_checkpointing=hardware.gradient_checkpointing,
        offload_teacher=hardware.teacher.offload,
        shard_teacher=hardware.teacher.shard,
    )
    validate = experiment.validation(outputs.tokenizer, processes)
    return OnPolicyRun(
        pair.student,
        pair.teacher,
        task,
        own_sample_objective(job.objective),
        job.settings,
        execution,
        experiment.seed,
        validate,
        outputs.on_collapse,
        validate.selector("rouge_l"),
    )


def train(job: OwnSamplesJob, processes: Processes, micro_batch: int) -> None:
    """Train, in as many processes as call this; the first writes the outputs."""
    from distill.models.checkpoints import RunRecord
    from distill.on_policy.process_memory import keep_freed_memory
    from distill.on_policy.state import restore
    from distill.runs.resume import ResumeStore
    from stages.training import agreed_fingerprint

    keep_freed_memory()
    record, tokenizer = RunRecord(), job.experiment.tokenizer()
    fingerprint = agreed_fingerprint(job.experiment, processes, job.settings, *job.inputs)
    states = ResumeStore(job.experiment.name, fingerprint)
    task, pair = read_task(job, tokenizer), load_models(job, processes)
    outputs = Outputs(job, tokenizer, pair, processes)
    run = outputs.run = build(job, outputs, pair, task, micro_batch)
    restore(run, states)
    run_to_the_end(job, outputs, run, states)
    if processes.is_first:
        outputs.write(record)
        states.clear()


def run_to_the_end(job: OwnSamplesJob, outputs: Outputs, run: OnPolicyRun, states: ResumeStore) -> None:
    """Train with progress shown, trackers told, states stored, and evidence kept of what goes wrong."""
    from distill.on_policy.state import store
    from distill.project.progress import Progress
    from distill.runs.stopping import stop_after_step
    from distill.runs.trackers import Trackers
    from stages.training import after_all

    name, hardware, processes = job.experiment.name, job.experiment.hardware, outputs.processes
    reported = hardware.report_to if processes.is_first else ()
    trackers = Trackers(reported, name, job.settings.model_dump(mode="json"), run.curves)
    progress = Progress(name, job.settings.max_steps, start=run.step, shown=processes.is_first)
    witness = outputs.evidence if processes.is_first else nullcontext()
    with after_all(processes), progress, witness, stop_after_step() as stop:

        def after_step(run: OnPolicyRun) -> None:
            shown = {n: v for n in ("loss", "reverse_kl", "valid_rouge_l") if (v := run.curves.last(n)) is not None}
            progress.advance(1, **shown)
            trackers.report(run.curves)
            if stop.agreed(processes.any) or run.step % hardware.save_every == 0:
                store(run, states)
            stop.obey()

        run.train(after_step)
    if processes.is_first:
        trackers.end()


if __name__ == "__main__":
    run_stage(main)
