"""DVC stage: SeqKD, fine-tuning on the teacher's own responses.

python -m stages.seqkd <student> <name>
"""

from __future__ import annotations

from pathlib import Path

from distill.project.errors import run_stage


def main() -> None:
    """Write runs/<student>/<name>."""
    from distill.objectives import seqkd
    from distill.text.examples import read_examples
    from stages.stand_in import stand_in
    from stages.supervised import parse_experiment, train

    experiment = parse_experiment(__doc__)
    if stand_in(experiment):
        return
    settings = experiment.settings(seqkd.ObjectiveSettings)
    responses = Path("runs") / experiment.family / "pseudo.parquet"
    train(
        experiment,
        seqkd,
        settings,
        responses,
        lambda: read_examples(responses, samples=settings.samples_per_prompt),
    )


if __name__ == "__main__":
    run_stage(main)
