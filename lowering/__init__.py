"""From a weightless graph to the files that the runtime reads: one artefact or device concern a file."""
