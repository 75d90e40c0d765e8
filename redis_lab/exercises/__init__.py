"""The checks of the exercises: a module a lesson, a function an exercise.

A check is marked with `judging.exercise` and receives the lab's client and the learner's answer. It
runs the answer on keys of its own, returns a sentence of praise with the facts, or raises
`judging.NotYet` with a hint that explains what is wrong. `lesson.check` finds it by its name.
"""
