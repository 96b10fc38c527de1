//! The REST API: authentication, authorization, handlers, OpenAPI, metrics.
