"""What is asked of the operating system: memory, whole files, room at the front of a file, file descriptor 2."""
