"""The errors that commands print as a sentence instead of a traceback."""

# A word, such as a path, may have this many characters; the middle of a longer one is cut out.
_WORD = 400
_WHOLE = 2000


def sentence(text: str) -> str:
    """Returns a message as one line of sane length: long values lose their middle, control characters are escaped."""
    words = [_cut(word, _WORD) for word in text.split(" ")]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _cut(" ".join(words), _WHOLE))


def _cut(text: str, length: int) -> str:
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


class UserError(Exception):
    """The user's input is wrong: exit code 2.

    The message is one sentence that names the field, its value, what was expected and how to fix it.
    """

    def __init__(self, message: str) -> None:
        """Keeps the message in the form of `sentence`."""
        super().__init__(sentence(message))


class Fault(Exception):
    """A run ended for a known reason other than the user's input: exit code 1."""

    def __init__(self, message: str) -> None:
        """Keeps the message in the form of `sentence`."""
        super().__init__(sentence(message))


class Stopped(BaseException):
    """A signal asked the command to stop: exit code 128 + its number.

    It is not an Exception, so code that handles errors does not catch it.
    """

    def __init__(self, number: int, sentence: str) -> None:
        """Takes the signal's number, and a sentence on what was saved and how to resume."""
        super().__init__(sentence)
        self.code = 128 + number


# Errors that the user can fix by naming another path or repairing this one: exit code 2, like a UserError.
WRONG_PATHS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
