"""Files: reading users' within bounds, writing whole or not at all, locks, paths, a run's history."""
