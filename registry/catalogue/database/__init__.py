"""The database: engine, transactions, schema, visibility and events."""
