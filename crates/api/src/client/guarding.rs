//! Calls about machines, the JIT policies that guard them, and freezes.

use reqwest::{Method, header};

use super::{Client, ClientError, DRY_RUN};
use crate::{
    freeze::{Freeze, FreezeCreate, FreezeLift, FreezeMade, FreezeQuery},
    jit_policy::{JitPolicy, JitPolicyPlan, JitPolicyQuery, JitPolicyWrite},
    machine::{Machine, MachineDetail, MachineQuery},
    page::Page,
};

impl Client {
    /// Lists machines.
    pub async fn machines(&self, query: &MachineQuery) -> Result<Page<Machine>, ClientError> {
        self.get(&["v1", "machines"], query).await
    }

    /// One machine.
    pub async fn machine(&self, id: &str) -> Result<MachineDetail, ClientError> {
        self.get(&["v1", "machines", id], &()).await
    }

    /// Lists JIT policies.
    pub async fn jit_policies(&self, query: &JitPolicyQuery) -> Result<Page<JitPolicy>, ClientError> {
        self.get(&["v1", "jit-policies"], query).await
    }

    /// One JIT policy.
    pub async fn jit_policy(&self, id: &str) -> Result<JitPolicy, ClientError> {
        self.get(&["v1", "jit-policies", id], &()).await
    }

    /// Makes a JIT policy. `key` makes a repetition safe.
    pub async fn create_jit_policy(
        &self,
        key: Option<&str>,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicy, ClientError> {
        self.post(&["v1", "jit-policies"], key, policy).await
    }

    /// Replaces version `version` of a JIT policy.
    pub async fn update_jit_policy(
        &self,
        id: &str,
        version: i64,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicy, ClientError> {
        Self::read(
            self.call(Method::PUT, &["v1", "jit-policies", id])
                .header(header::IF_MATCH, format!("\"{version}\""))
                .json(policy),
        )
        .await
    }

    /// Removes version `version` of a JIT policy: its grants end, and what its lockdown displaced is put back.
    pub async fn delete_jit_policy(&self, id: &str, version: i64) -> Result<(), ClientError> {
        Self::send(
            self.call(Method::DELETE, &["v1", "jit-policies", id])
                .header(header::IF_MATCH, format!("\"{version}\"")),
        )
        .await
        .map(drop)
    }

    /// What making the policy would do.
    pub async fn plan_create_jit_policy(
        &self,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicyPlan, ClientError> {
        let call = self.call(Method::POST, &["v1", "jit-policies"]);
        Self::read(call.query(&DRY_RUN).json(policy)).await
    }

    /// What replacing version `version` of a JIT policy would do.
    pub async fn plan_update_jit_policy(
        &self,
        id: &str,
        version: i64,
        policy: &JitPolicyWrite,
    ) -> Result<JitPolicyPlan, ClientError> {
        let call = self
            .call(Method::PUT, &["v1", "jit-policies", id])
            .header(header::IF_MATCH, format!("\"{version}\""));
        Self::read(call.query(&DRY_RUN).json(policy)).await
    }

    /// What removing version `version` of a JIT policy would do.
    pub async fn plan_delete_jit_policy(&self, id: &str, version: i64) -> Result<JitPolicyPlan, ClientError> {
        let call = self
            .call(Method::DELETE, &["v1", "jit-policies", id])
            .header(header::IF_MATCH, format!("\"{version}\""));
        Self::read(call.query(&DRY_RUN)).await
    }

    /// Lists freezes.
    pub async fn freezes(&self, query: &FreezeQuery) -> Result<Page<Freeze>, ClientError> {
        self.get(&["v1", "freezes"], query).await
    }

    /// Closes everything at a scope, and keeps it closed.
    pub async fn create_freeze(
        &self,
        key: Option<&str>,
        freeze: &FreezeCreate,
    ) -> Result<FreezeMade, ClientError> {
        self.post(&["v1", "freezes"], key, freeze).await
    }

    /// Lifts a freeze.
    pub async fn lift_freeze(
        &self,
        id: &str,
        key: Option<&str>,
        lift: &FreezeLift,
    ) -> Result<Freeze, ClientError> {
        self.post(&["v1", "freezes", id, "lift"], key, lift).await
    }
}
