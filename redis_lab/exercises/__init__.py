"""The checks of the exercises: a module a lesson, a function an exercise.

A check runs the learner's answer on keys of its own, returns a sentence of praise with the facts,
or raises `lesson.NotYet` with a hint that explains what is wrong. `lesson.check` calls it.
"""
