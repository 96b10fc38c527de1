//! The EC2 enforcer: security groups and interfaces.
