"""What can be done with a finished run, in Python and by the commands."""
