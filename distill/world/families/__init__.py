"""The task families of the toy world."""

from distill.world.families.lists import LISTS
from distill.world.families.long_answers import LONG_ANSWERS
from distill.world.families.open_questions import OPEN_QUESTIONS
from distill.world.families.passage_questions import PASSAGE_QUESTIONS
from distill.world.families.person_questions import PERSON_QUESTIONS
from distill.world.families.rewrites import REWRITING
from distill.world.families.sorting import SORTING

FAMILIES = PERSON_QUESTIONS + OPEN_QUESTIONS + PASSAGE_QUESTIONS + SORTING + LISTS + REWRITING + LONG_ANSWERS

__all__ = ["FAMILIES"]
