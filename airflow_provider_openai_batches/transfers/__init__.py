"""Results of batches into other systems."""
