"""What a finished run can do, in Python and behind the commands."""
