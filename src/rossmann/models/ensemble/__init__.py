"""The blend of the three members, its intervals and artifact files."""
