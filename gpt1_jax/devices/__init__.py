"""Where arrays live and who computes: the mesh, the processes, the chips, their compiler and memory."""
