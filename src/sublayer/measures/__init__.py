"""Model and data to numbers, each with what it is measured against."""
