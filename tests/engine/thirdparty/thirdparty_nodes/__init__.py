"""A node package as someone else would ship it; it exists for the tests of graphs."""
