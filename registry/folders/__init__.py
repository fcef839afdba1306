"""Local folders: selecting files, staging and filling folders, receipts, and the fetch cache."""
