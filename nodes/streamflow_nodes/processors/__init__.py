"""What changes data on its way."""
