"""Who calls, and what they may do. Tenancy is decided here and nowhere else."""
