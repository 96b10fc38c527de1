//! Posture.
