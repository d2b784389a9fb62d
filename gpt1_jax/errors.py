"""What the doors print as a sentence instead of a traceback."""


class UserError(Exception):
    """The user's input is wrong: exit code 2.

    The message is one sentence that names the field, its value, what was expected and how to mend it.
    """


class Fault(Exception):
    """A run ended for a known reason other than the user's input: exit code 1."""


# What the user can mend by naming another path, or mending that one: exit code 2, as a UserError.
WRONG_PATHS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
