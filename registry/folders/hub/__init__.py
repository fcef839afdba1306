"""Downloads repositories of a Hub."""
