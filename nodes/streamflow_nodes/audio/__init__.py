"""Sound: samples and their stream time, spectra, denoising, files, RTP, devices, and scores."""
