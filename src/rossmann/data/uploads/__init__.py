"""Tables of users: format and dialect detection, column reading."""
