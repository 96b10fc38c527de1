//! One file per endpoint: its description, its handler, and what it alone needs.

pub(crate) mod access_check;
pub(crate) mod access_requests_approve;
pub(crate) mod access_requests_create;
pub(crate) mod access_requests_deny;
pub(crate) mod access_requests_get;
pub(crate) mod access_requests_list;
pub(crate) mod access_requests_withdraw;
pub(crate) mod audit_events_list;
pub(crate) mod grants_get;
pub(crate) mod grants_list;
pub(crate) mod grants_revoke;
pub(crate) mod health;
pub(crate) mod jit_policies_create;
pub(crate) mod jit_policies_delete;
pub(crate) mod jit_policies_get;
pub(crate) mod jit_policies_list;
pub(crate) mod jit_policies_update;
pub(crate) mod machines_get;
pub(crate) mod machines_list;
pub(crate) mod openapi;
pub(crate) mod role_assignments_create;
pub(crate) mod role_assignments_delete;
pub(crate) mod role_assignments_list;
pub(crate) mod roles_create;
pub(crate) mod roles_delete;
pub(crate) mod roles_list;
