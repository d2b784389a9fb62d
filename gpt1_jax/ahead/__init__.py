"""Compiles for TPUs that need not exist, and reads what their compiler says."""
