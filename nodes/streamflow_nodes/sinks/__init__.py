"""Where data ends: files, pictures, scores."""
