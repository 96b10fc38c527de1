//! Request and response types, error codes and the typed HTTP client.
