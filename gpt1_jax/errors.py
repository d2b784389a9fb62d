"""What the doors print as a sentence instead of a traceback."""

_WORD = 400  # characters of one word, such as a path; the middle of a longer one is cut out
_WHOLE = 2000


def sentence(text: str) -> str:
    """A message as one line of a sane length: long values lose their middle, control characters are escaped."""
    words = [_cut(word, _WORD) for word in text.split(" ")]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _cut(" ".join(words), _WHOLE))


def _cut(text: str, length: int) -> str:
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


class UserError(Exception):
    """The user's input is wrong: exit code 2.

    The message is one sentence that names the field, its value, what was expected and how to mend it.
    """

    def __init__(self, message: str) -> None:
        """Keeps the message as `sentence` makes it."""
        super().__init__(sentence(message))


class Fault(Exception):
    """A run ended for a known reason other than the user's input: exit code 1."""

    def __init__(self, message: str) -> None:
        """Keeps the message as `sentence` makes it."""
        super().__init__(sentence(message))


class Stopped(BaseException):
    """A signal asked the command to stop: exit code 128 + its number.

    It is no Exception, so that nothing that deals with errors takes it for one.
    """

    def __init__(self, number: int, sentence: str) -> None:
        """`sentence` says what was saved, and how to go on."""
        super().__init__(sentence)
        self.code = 128 + number


# What the user can mend by naming another path, or mending that one: exit code 2, as a UserError.
WRONG_PATHS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
