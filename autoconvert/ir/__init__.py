"""The intermediate representation: programs, their ports, symbols and states, and how graphs are edited."""
