"""The one exception that the lab raises for things its user can mend."""


class LabError(Exception):
    """Something is wrong that the user can mend; the message says what and how."""
