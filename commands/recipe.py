"""A whole profile as settings: `recipe`, with a section for each stage that trains, and `hardware`.

The sections of a student are those of the methods that dvc.yaml can train, so the classes are made for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, create_model, model_validator

from commands.methods import Method
from distill.data.settings import DataSettings
from distill.judging.settings import Pseudo
from distill.models.settings import Dtype, ModelSettings, Taken
from distill.project.references import ModelReference
from distill.project.settings import Settings
from distill.runs.hardware import HardwareSettings
from distill.text.settings import PromptSettings, TokenizerSettings
from distill.training.settings import SupervisedSettings


def _kind(content: Any) -> str:
    return "taken" if isinstance(content, Taken) or (isinstance(content, dict) and "from" in content) else "trained"


def _section(settings: type[Settings]) -> Any:
    """A method's section trains it, takes a finished checkpoint, or is null: the method is left out."""
    trained = Annotated[settings, Tag("trained")]  # type: ignore[valid-type]
    return Annotated[trained | Annotated[Taken, Tag("taken")], Discriminator(_kind)] | None


class TeacherRecipe(Settings):
    """`recipe.teacher`: a model and how it is fine-tuned, or a finished teacher (`from`)."""

    model: ModelSettings | None
    sft: SupervisedSettings | None = None
    taken: ModelReference | None = Field(default=None, alias="from")
    copied: bool = Field(default=False, alias="copy")

    @model_validator(mode="after")
    def _trained_or_taken(self) -> TeacherRecipe:
        if (self.sft is None) == (self.taken is None):
            raise ValueError("give exactly one of `sft` and `from`")
        if (self.model is None) == (self.taken is None):
            raise ValueError("a teacher that is fine-tuned needs a `model`, and one that is taken has `model: null`")
        if self.copied and self.taken is None:
            raise ValueError("`copy` is for a teacher that is taken (`from`); remove it")
        return self

    @property
    def origin(self) -> ModelSettings:
        """The model that is fine-tuned, or the finished teacher as one."""
        return self.model or ModelSettings(source=self.taken)


class StudentRecipe(Settings):
    """`recipe.students.<name>`: the model, and a section for each method; `recipe_of` adds the fields of those."""

    methods: ClassVar[Mapping[str, Method]] = {}

    model: ModelSettings | None

    @property
    def sections(self) -> dict[str, Settings | None]:
        """Every section that is written, by the name of its method; None for one that is null."""
        return {name: getattr(self, name) for name in self.methods if name in self.model_fields_set}

    @property
    def trained(self) -> dict[str, Settings]:
        """The sections that train."""
        return {n: part for n, part in self.sections.items() if part is not None and not isinstance(part, Taken)}

    @model_validator(mode="after")
    def _starts(self) -> StudentRecipe:
        starts = {name: self.methods[name].start for name in self.trained}
        if self.model is None and (wanting := [name for name, start in starts.items() if start == "base"]):
            raise ValueError(f"`model` is null but {', '.join(wanting)} is trained from it; give it, or `from` there")
        # A section that is not there at all is `commands.check`'s to name.
        null = {name for name, part in self.sections.items() if part is None}
        wanting = [name for name, start in starts.items() if start in null]
        if wanting:
            raise ValueError(f"`init` is null but {', '.join(wanting)} starts from it; give it, or `from` there")
        return self

    @property
    def origin(self) -> ModelSettings | None:
        """The model that is trained, or the first finished student as one; None for a student without either."""
        taken = (section for section in self.sections.values() if isinstance(section, Taken))
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
    methods: dict[str, Any] | None = None
    """Sections written once for all students, who take them by YAML's `<<` and override what differs."""
    students: Mapping[str, StudentRecipe]


class Profile(Settings):
    """profiles/<family>.yaml."""

    recipe: Recipe
    hardware: HardwareSettings = HardwareSettings()


def profile_of(methods: Mapping[str, Method]) -> type[Profile]:
    """The class of profiles whose students may have a section for each of `methods`."""
    fields: dict[str, Any] = {name: (_section(method.settings), None) for name, method in methods.items()}
    student = create_model("StudentRecipe", __base__=StudentRecipe, **fields)
    student.methods = methods
    recipe = create_model("Recipe", __base__=Recipe, students=(dict[str, student], ...))  # type: ignore[valid-type]
    return create_model("Profile", __base__=Profile, recipe=(recipe, ...))
