"""What a team shares: tokens and jobs."""
