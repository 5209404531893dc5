"""From a weightless graph to the file that the runtime reads: one artefact a file; device rules lie in `bodies`."""
