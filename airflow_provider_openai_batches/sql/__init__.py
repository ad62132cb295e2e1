"""Results into a table of a database: which columns, what the table is to be like, and the load itself."""
