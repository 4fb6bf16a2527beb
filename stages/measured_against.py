"""DVC stage: what the divergences of a student's models follow from in its family, as hashes.

DVC's matrix over students and methods cannot name a student's family, so `divergence` depends on this one file instead:
it changes with the teacher, its samples or the validation prompts, and with nothing else.

python -m stages.measured_against <student>
"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.evaluation import measures
from distill.project.errors import run_stage
from distill.project.files import sha256_tree, write_json
from distill.project.table import family_of, read_table


def main() -> None:
    """Write measures/<student>/reference.json: the family, and the SHA-256 of what is read of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    student = parser.parse_args().student
    family = family_of(student, read_table())
    read = [Path("data") / family / "valid.parquet", Path("runs") / family / "teacher", measures.samples_path(family)]
    hashes = {path.as_posix(): sha256_tree(path) for path in read}
    write_json(measures.reference_path(student), {"family": family, "read": hashes})


if __name__ == "__main__":
    run_stage(main)
