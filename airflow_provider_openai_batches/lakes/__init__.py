"""Results into the tables of lakes."""
