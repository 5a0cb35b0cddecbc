"""From memory over a disk spool to the database, exactly once."""
