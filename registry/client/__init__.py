"""The registry over HTTP: publishing, browsing and fetching with httpx alone, without torch and without a database."""
