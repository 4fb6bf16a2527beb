"""A rough guess of a machine's speed, without torch and without measuring: enough to tell an hour from a week."""

from __future__ import annotations

from distill.preflight.shapes import Shape
from distill.preflight.workload import Units

# Sustained operations a second, and bytes read a second: of a CPU core, of a data-centre GPU.
_CORE, _GPU = 60e9, 30e12
_CORE_READS, _GPU_READS = 8e9, 1e12
# Seconds that a layer of any size takes in a step of a decode.
_LAYER = {True: 1e-4, False: 2e-4}
# Bytes that an optimiser's step moves, a parameter.
_MOVED = 40
IMPORTS = 4.0
"""CPU seconds in which a stage imports its libraries."""


def rough_prices(shape: Shape, context: float, width: int, gpu: bool, threads: int) -> Units:
    """Seconds a unit for a model whose numbers have `width` bytes, in sequences of about `context` tokens."""
    operations = _GPU if gpu else _CORE * threads
    reads = _GPU_READS if gpu else _CORE_READS * threads
    body = shape.forward_operations(context / 2, head=False) / operations
    head = 2 * shape.embedding / operations
    return Units(
        trained=3 * body,
        learnt=3 * head,
        read=body,
        scored=head,
        steps=shape.parameters * width / reads + shape.layers * _LAYER[gpu],
        sampled=body + head,
        updates=shape.parameters * _MOVED / reads + 0.004,
    )
