"""Which models a report shows: in which order, under which names, and where their training tokens come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from distill.scoring.names import REFERENCE_METHOD, TEACHER, label
from distill.scoring.results import StudentTable
from distill.scoring.tables import ResultTable

GROUPS = {
    "data": "On the data",
    "data, with the teacher's distribution": "On the data, with the teacher's distribution",
    "teacher's samples": "On the teacher's samples",
    "own samples": "On own samples",
}
"""Where training tokens come from, as `tokens` of a model says it, with the heading: in the order of tables."""
_UNKNOWN = "Origin of the training tokens not recorded"


@dataclass(frozen=True)
class Model:
    """One model of the report."""

    name: str
    """Its name in params.yaml and in paths."""
    label: str
    """Its name for readers."""
    tokens: str = ""
    """Where its training tokens come from; empty for the teacher and where nothing says it."""


@dataclass(frozen=True)
class Roster:
    """The models of one student's report: the teacher, then the methods by the origin of their training tokens."""

    models: tuple[Model, ...]

    @property
    def methods(self) -> tuple[Model, ...]:
        """All models but the teacher."""
        return tuple(model for model in self.models if model.name != TEACHER)

    @property
    def groups(self) -> list[tuple[str, tuple[Model, ...]]]:
        """Heading and methods of each group; one group without a heading where nothing says what they learn from."""
        found = [(tokens, tuple(group)) for tokens, group in groupby(self.methods, key=lambda model: model.tokens)]
        if [tokens for tokens, _ in found] == [""]:
            return [("", found[0][1])]
        return [(heading(tokens), group) for tokens, group in found]

    def label(self, name: str) -> str:
        """The name for readers; one that the report does not know is given back."""
        return next((model.label for model in self.models if model.name == name), label(name))

    def section(self, name: str) -> str:
        """The heading that a method stands under; empty for the teacher."""
        return next((title for title, group in self.groups if name in [model.name for model in group]), "")


def heading(tokens: str) -> str:
    """The heading of the methods that learn from `tokens`."""
    return GROUPS.get(tokens, tokens.capitalize() or _UNKNOWN)


def read(experiment: StudentTable, summary: Mapping[str, Any]) -> Roster:
    """The roster by `models` of analyses/<student>/summary.json; without that part, in the order of params.yaml."""
    said: Mapping[str, Any] = summary.get("models", {})
    models = [
        Model(
            name,
            str(said.get(name, {}).get("label") or experiment.label(name)),
            str(said.get(name, {}).get("tokens") or ""),
        )
        for name in experiment.models
    ]
    ranks = [TEACHER, *GROUPS, *sorted({model.tokens for model in models} - {*GROUPS, ""}), ""]
    # a stable sort: within a group the order of params.yaml
    ordered = sorted(models, key=lambda model: ranks.index(TEACHER if model.name == TEACHER else model.tokens))
    return Roster(tuple(ordered))


def references(roster: Roster, significance: Mapping[str, Any]) -> list[str]:
    """The models that others are compared with in `significance`, in the order of the roster."""
    return [model.name for model in roster.models if significance.get(model.name)]


def first_reference(offered: Sequence[str]) -> str:
    """The one that a report opens with: MiniLLM where it is there, else the first method; empty if there is none."""
    methods = [name for name in offered if name != TEACHER]
    return REFERENCE_METHOD if REFERENCE_METHOD in methods else next(iter([*methods, *offered]), "")


def arranged(table: ResultTable, experiment: StudentTable, roster: Roster) -> ResultTable:
    """A table whose rows are the experiment's models, in the order and under the names of the roster."""
    rows = dict(zip(experiment.models, table.rows, strict=True))
    ordered = [
        replace(rows[model.name], name=model.label, model=model.name, section=roster.section(model.name))
        for model in roster.models
    ]
    return replace(table, rows=tuple(ordered))
