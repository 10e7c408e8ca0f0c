"""Ask the database: what campaigns there are, how they stand, what they learnt and from where."""
