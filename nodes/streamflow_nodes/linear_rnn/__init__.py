"""Linear recurrent networks: their file, their engines and their tools."""
