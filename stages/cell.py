"""One finished model to be measured: what it is, the template and tokenizer that came with it, and its weights."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.project.errors import SettingsError
from distill.project.files import read_json
from distill.project.table import PARAMS, read_table
from distill.text.settings import PromptSettings
from distill.text.tokenizers import load_tokenizer
from stages.experiment import Experiment, read_experiment


@dataclass(frozen=True)
class MeasuredModel:
    """A model of the results table."""

    experiment: Experiment
    prompt: PromptSettings
    """The template it was trained with: it comes with the checkpoint, so that nobody can pair it with another one."""
    tokenizer: PreTrainedTokenizerBase

    @property
    def is_teacher(self) -> bool:
        """Whether this is a family's teacher."""
        return self.experiment.who == self.experiment.family

    def stage(self, block: str, *rest: str) -> str:
        """DVC's name of the stage that measures it, `rest` after who and what: `calibration@tiny-kd`."""
        name = "-".join((self.experiment.who, self.experiment.what, *rest))
        return f"{'teacher_' * self.is_teacher}{block}@{name}"

    def load(self) -> PreTrainedModel:
        """Its weights, on this process's device."""
        return self.experiment.load(self.experiment.output)


def read_cell(who: str, what: str) -> MeasuredModel:
    """The teacher of a family, or a student's model.

    Raises: SettingsError for unknown names, and for a method that the profile leaves out.
    """
    experiment, table = read_experiment(who, what), read_table()
    models = ["teacher"] if who == experiment.family else table.methods
    if what not in models and not experiment.output.exists():
        raise SettingsError(f"`{what}` is no method of {PARAMS}; use one of: {', '.join(models)}")
    meta = read_json(experiment.output / "meta.json")
    if meta.get("left_out"):
        raise SettingsError(
            f"{experiment.profile} leaves `{what}` of `{who}` out, so there is nothing to measure; give its section, "
            f"or take it out of the methods of {PARAMS}"
        )
    return MeasuredModel(experiment, PromptSettings.model_validate(meta["prompt"]), load_tokenizer(experiment.output))
