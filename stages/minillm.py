"""DVC stage: MiniLLM (Algorithm 1), from the student after SFT with the lowest validation loss.

python -m stages.minillm <student> <name>        name: the section of the profile, e.g. minillm, single_step
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.objectives.minillm.settings import MiniLLMSettings
from distill.project.errors import DivergedError, run_stage
from distill.project.progress import Progress
from distill.runs.stopping import stop_after_step

if TYPE_CHECKING:
    from distill.parallel.processes import Processes
    from stages.experiment import Experiment


def main() -> None:
    """Write runs/<student>/<name>, its curves and its run record with the cost ledger."""
    from stages.experiment import read_experiment
    from stages.stand_in import stand_in
    from stages.training import training

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("name")
    arguments = parser.parse_args()
    experiment = read_experiment(arguments.student, arguments.name)
    if stand_in(experiment):
        return
    settings = experiment.settings(MiniLLMSettings)
    batches = {"minibatch": settings.minibatch} | ({"lm_batch": settings.lm_batch} if settings.lm_coef else {})
    places = {f"{experiment.recipe}.{arguments.name}.{name}": batch for name, batch in batches.items()}
    with training(experiment, places, accumulated=False, lora=settings.lora is not None) as (processes, micro_batch):
        distil(experiment, settings, processes, micro_batch)


def distil(experiment: Experiment, settings: MiniLLMSettings, processes: Processes, micro_batch: int) -> None:
    """Train the student, in as many processes as call this, and write what `main` says."""
    import torch

    from distill.models.checkpoints import RunRecord, save_checkpoint
    from distill.on_policy.loop import Execution, MiniLLMRun, Task
    from distill.on_policy.pair import load_pair
    from distill.on_policy.plaintext import token_stream
    from distill.on_policy.process_memory import keep_freed_memory
    from distill.on_policy.state import restore, store
    from distill.parallel.processes import device
    from distill.project.randomness import key
    from distill.runs.evidence import Evidence
    from distill.runs.resume import ResumeStore
    from distill.runs.trackers import Trackers
    from distill.text.examples import read_documents, read_examples
    from stages.training import after_all, agreed_fingerprint

    keep_freed_memory()
    hardware = experiment.hardware
    data = [experiment.data / name for name in ("train.parquet", "valid.parquet")]
    record = RunRecord()
    tokenizer = experiment.tokenizer()
    init = Path("runs") / experiment.who / "init"
    corpus = [experiment.data / "corpus.parquet"] if settings.lm_coef else []
    inputs = [*data, *corpus, init, experiment.teacher]
    states = ResumeStore(experiment.name, agreed_fingerprint(experiment, processes, settings, *inputs))
    eos_id = int(tokenizer.eos_token_id)
    plain_text = None
    if settings.lm_coef:
        documents = read_documents(experiment.data / "corpus.parquet")
        plain_text = token_stream(tokenizer(documents)["input_ids"], eos_id)
    examples = read_examples(data[0], experiment.rows.student)

    def on_collapse(fault: DivergedError) -> None:
        if hardware.on_collapse == "stop":
            raise fault
        if hardware.on_collapse == "warn" and processes.is_first and not evidence.kept:
            print(f"warning: {fault}", file=sys.stderr)
            evidence.keep(fault)

    seed = key(experiment.seed, "adapter", experiment.name) % 2**32
    pair = load_pair(
        init,
        experiment.teacher,
        settings.lora,
        experiment.dtype,
        device(),
        seed,
        hardware.teacher.dtype,
        # Whole it may not fit where a part of it does.
        torch.device("cpu") if hardware.teacher.shard and processes.count > 1 else None,
    )
    run = MiniLLMRun(
        pair.student,
        pair.teacher,
        Task([e.prompt_ids for e in examples], experiment.prompt.max_response_tokens, eos_id, plain_text),
        settings,
        Execution(
            micro_batch,
            hardware.decode_batch,
            processes,
            zero=None if hardware.zero_stage is None else hardware,
            gradient_checkpointing=hardware.gradient_checkpointing,
            offload_teacher=hardware.teacher.offload,
            shard_teacher=hardware.teacher.shard,
        ),
        experiment.seed,
        experiment.validation(tokenizer, processes),
        on_collapse,
    )
    restore(run, states)

    def save(folder: Path) -> None:
        best = {"best_step": run.best_step, "best_valid_rouge_l": round(run.best_rouge, 4)}
        with run.at_best():
            save_checkpoint(run.student, tokenizer, folder, {**experiment.meta(settings), **best}, pair.adapted)

    evidence = Evidence(experiment.name, tokenizer, save)
    trackers = Trackers(
        hardware.report_to if processes.is_first else (), experiment.name, settings.model_dump(mode="json"), run.curves
    )
    progress = Progress(experiment.name, settings.max_steps, start=run.step, shown=processes.is_first)
    witness = evidence if processes.is_first else nullcontext()
    with after_all(processes), progress, witness, stop_after_step() as stop:

        def after_step(run: MiniLLMRun) -> None:
            shown = {n: v for n in ("loss", "reverse_kl", "valid_rouge_l") if (v := run.curves.last(n)) is not None}
            progress.advance(1, **shown)
            trackers.report(run.curves)
            if stop.agreed(processes.any) or run.step % hardware.save_every == 0:
                store(run, states)
            stop.obey()

        run.train(after_step)
    if not processes.is_first:
        return
    trackers.end()
    save(experiment.output)
    run.curves.write(Path(f"{experiment.output}.curves"))
    # The process's own marks begin anew with each phase; the ledger knows the highest.
    peaks: dict[str, Any] = run.ledger.memory.highest()
    record.write(Path(f"{experiment.output}.run.json"), **peaks, cost=run.ledger.summary(), shared_base=pair.shared)
    print("\n".join(run.ledger.lines()))
    states.clear()


if __name__ == "__main__":
    run_stage(main)
