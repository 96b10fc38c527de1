//! The binary: serve, demo and the command line.
