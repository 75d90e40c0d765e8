"""The exception for everything that a user of the lab can fix."""


class LabError(Exception):
    """The user can fix this; the message says what is wrong and how."""
