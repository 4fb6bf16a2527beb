"""A whole profile as settings: `recipe`, with a section for each stage that trains, and `hardware`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from distill.data.settings import DataSettings
from distill.judging.settings import Pseudo
from distill.models.settings import Dtype, ModelSettings, Taken
from distill.objectives.kd import ObjectiveSettings as KDSettings
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.objectives.seqkd import ObjectiveSettings as SeqKDSettings
from distill.objectives.sft import ObjectiveSettings as SFTSettings
from distill.project.references import ModelReference
from distill.project.settings import Settings
from distill.runs.hardware import HardwareSettings
from distill.text.settings import PromptSettings, TokenizerSettings


def _kind(content: Any) -> str:
    return "taken" if isinstance(content, Taken) or (isinstance(content, dict) and "from" in content) else "trained"


_KINDS = Discriminator(_kind)
_Taken = Annotated[Taken, Tag("taken")]
# A method's section trains it, takes a finished checkpoint, or is null: the method is left out.
SFT = Annotated[Annotated[SFTSettings, Tag("trained")] | _Taken, _KINDS] | None
KD = Annotated[Annotated[KDSettings, Tag("trained")] | _Taken, _KINDS] | None
SeqKD = Annotated[Annotated[SeqKDSettings, Tag("trained")] | _Taken, _KINDS] | None
MiniLLM = Annotated[Annotated[MiniLLMSettings, Tag("trained")] | _Taken, _KINDS] | None


class TeacherRecipe(Settings):
    """`recipe.teacher`: a model and how it is fine-tuned, or a finished teacher (`from`)."""

    model: ModelSettings | None
    sft: SFTSettings | None = None
    taken: ModelReference | None = Field(default=None, alias="from")

    @model_validator(mode="after")
    def _trained_or_taken(self) -> TeacherRecipe:
        if (self.sft is None) == (self.taken is None):
            raise ValueError("give exactly one of `sft` and `from`")
        if (self.model is None) == (self.taken is None):
            raise ValueError("a teacher that is fine-tuned needs a `model`, and one that is taken has `model: null`")
        return self

    @property
    def origin(self) -> ModelSettings:
        """The model that is fine-tuned, or the finished teacher as one."""
        return self.model or ModelSettings(source=self.taken)


class StudentRecipe(Settings):
    """`recipe.students.<name>`: the model, and a section for each method."""

    model: ModelSettings | None
    init: SFT
    sft: SFT
    kd: KD
    seqkd: SeqKD
    minillm: MiniLLM
    seqkd_multi: SeqKD
    single_step: MiniLLM

    @model_validator(mode="after")
    def _starts(self) -> StudentRecipe:
        sections = {name: getattr(self, name) for name in type(self).model_fields if name != "model"}
        trained = [name for name, section in sections.items() if section is not None and _kind(section) == "trained"]
        later = [name for name in trained if isinstance(sections[name], MiniLLMSettings)]
        if self.model is None and (wanting := [name for name in trained if name not in later]):
            raise ValueError(f"`model` is null but {', '.join(wanting)} is trained from it; give it, or `from` there")
        if self.init is None and later:
            raise ValueError(f"`init` is null but {', '.join(later)} starts from it; give it, or `from` there")
        return self

    @property
    def origin(self) -> ModelSettings | None:
        """The model that is trained, or the first finished student as one; None for a student without either."""
        taken = (section for name in type(self).model_fields if isinstance(section := getattr(self, name), Taken))
        return self.model or next((ModelSettings(source=each.source) for each in taken), None)


class Recipe(Settings):
    """`recipe`: what DVC tracks of a profile."""

    note: str | None = None
    dtype: Dtype
    data: DataSettings
    prompt: PromptSettings
    tokenizer: TokenizerSettings
    teacher: TeacherRecipe
    pseudo: Pseudo | None
    students: dict[str, StudentRecipe]


class Profile(Settings):
    """profiles/<family>.yaml."""

    recipe: Recipe
    hardware: HardwareSettings = HardwareSettings()
