"""What names what it sees."""
