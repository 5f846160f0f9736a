"""Events of event cameras: packets, recordings and datasets, cameras, live streams, and frames."""
