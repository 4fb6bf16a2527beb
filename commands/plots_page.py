"""Write the page that `dvc plots diff` and `dvc plots show` fill, so that it opens offline, and tell DVC of it.

    python -m commands.plots_page      # setting up does it

DVC's own page loads Vega from the network. This one holds it, from the package vl-convert-python. The page and the
setting that names it (in `.dvc/config.local`) belong to this clone: DVC fails where the setting names a missing file.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from distill.project.errors import SettingsError, run_stage
from distill.project.files import write_text

PAGE = Path(".dvc/plots.html")
# DVC's templates are written for Vega-Lite 5; this is the last 5 that the package has.
VEGA_LITE = "5.21"
_GLOBAL = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"
# DVC replaces the names in braces. Its {scripts} would be those of the network: there is no place for them.
_HTML = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
{refresh_tag}
<title>DVC Plot</title>
<script>
%s
</script>
<style>table { border-spacing: 15px; }</style>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def main() -> None:
    """Write the page into the clone in the current folder."""
    import vl_convert

    if not PAGE.parent.is_dir():
        raise SettingsError("there is no .dvc here; run this in the folder of dvc.yaml, in a clone of the project")
    write_text(PAGE, _HTML % vl_convert.javascript_bundle(_GLOBAL, VEGA_LITE))
    # A relative path is one below .dvc
    setting = ("--local", "plots.html_template", PAGE.name)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "config", *setting], capture_output=True, text=True, check=False
    )
    if done.returncode:
        PAGE.unlink()
        raise SettingsError(f"`dvc config {' '.join(setting)}` failed: {done.stderr.strip()}; mend .dvc/config.local")


if __name__ == "__main__":
    run_stage(main)
