"""The report as one HTML page that opens offline: table, charts, training curves, sample responses.

Text of models and data goes through jinja2's escaping: a response `<script>` is shown, not run. The page
loads nothing, and its own script only hides and shows samples, so it reads the same without scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.scoring.plots import Chart, colors
from distill.scoring.results import Experiment
from distill.scoring.samples import Sample
from distill.scoring.tables import Table, label

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(
    experiment: Experiment,
    table: Table,
    scores: Sequence[Chart],
    curves: Sequence[Chart],
    samples: Sequence[Sample],
) -> str:
    """The whole page; the same input gives the same bytes."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    palette = colors(experiment)
    return (
        environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            experiment=experiment,
            table=table,
            # room for a sign in every cell of a column that has one, so that the digits stay aligned
            column_signed=[any(cells[i].sign for _, cells in table.rows) for i in range(len(table.columns))],
            scores=scores,
            curves=curves,
            samples=samples,
            legend=[(label(model), palette[model]) for model in experiment.models],
            methods=[(method, label(method)) for method in experiment.methods],
        )
        + "\n"
    )
