"""DVC stage: word-level knowledge distillation on the data's responses, from the pretrained base.

python -m stages.kd <family|student> <name>
"""

from __future__ import annotations

from distill.project.errors import run_stage


def main() -> None:
    """Write runs/<who>/<name>."""
    from distill.objectives import kd
    from stages.stand_in import stand_in
    from stages.supervised import parse_experiment, read_train_rows, train, train_file

    experiment = parse_experiment(__doc__)
    if stand_in(experiment):
        return
    settings = experiment.settings(kd.ObjectiveSettings)
    train(experiment, kd, settings, train_file(experiment), lambda: read_train_rows(experiment))


if __name__ == "__main__":
    run_stage(main)
