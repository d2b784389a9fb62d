"""Files: bounded reading of users' files, all-or-nothing writing, locks, paths, and a run's history."""
