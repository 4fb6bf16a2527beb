"""The task families of the toy world."""

from distill.world.task_types.lists import LISTS
from distill.world.task_types.long_answers import LONG_ANSWERS
from distill.world.task_types.open_questions import OPEN_QUESTIONS
from distill.world.task_types.passage_questions import PASSAGE_QUESTIONS
from distill.world.task_types.person_questions import PERSON_QUESTIONS
from distill.world.task_types.rewrites import REWRITING
from distill.world.task_types.sorting import SORTING

FAMILIES = PERSON_QUESTIONS + OPEN_QUESTIONS + PASSAGE_QUESTIONS + SORTING + LISTS + REWRITING + LONG_ANSWERS

__all__ = ["FAMILIES"]
