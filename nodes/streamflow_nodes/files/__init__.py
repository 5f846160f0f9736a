"""Files of any topic: result files that stay readable, full disks, columns, and bounded reading."""
