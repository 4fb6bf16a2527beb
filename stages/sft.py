"""DVC stage: supervised fine-tuning on the response tokens (teachers, MiniLLM's start, and the SFT baseline).

python -m stages.sft <family|student> <name>
"""

from __future__ import annotations

from distill.project.errors import run_stage


def main() -> None:
    """Write runs/<who>/<name>."""
    from distill.objectives import sft
    from stages.stand_in import stand_in
    from stages.supervised import parse_experiment, read_train_rows, train, train_file

    experiment = parse_experiment(__doc__)
    if stand_in(experiment):
        return
    settings = experiment.settings(sft.ObjectiveSettings)
    train(experiment, sft, settings, train_file(experiment), lambda: read_train_rows(experiment))


if __name__ == "__main__":
    run_stage(main)
