"""What all HTTP interfaces share: authentication, limits, range responses, error mapping, logging and metrics."""
