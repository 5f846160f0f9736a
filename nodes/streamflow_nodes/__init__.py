"""The nodes that ship with streamflow: sources, processors, classifiers and sinks."""
