//! The Azure enforcer: network security groups through Azure Resource Manager.
