//! Credentials: roles to assume, and the proof that whoever signs belongs to the account that is guarded.
//!
//! In another account nothing that is guarded exists, and what does not exist is settled for good: rules that a
//! lockdown displaced would never be put back. So no call is signed with credentials that STS has not named.

use std::time::SystemTime;

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use aws_sdk_sts::{
    Client,
    config::Builder,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::http::Response;
use tokio::sync::Mutex;

use crate::{
    config::AssumeRole,
    error::{StsRefused, WrongAccount, trail},
};

fn client(sts: &Builder, credentials: SharedCredentialsProvider) -> Client {
    Client::from_conf(sts.clone().credentials_provider(credentials).build())
}

/// What STS said, kept whole for [`crate::error::Failure`] to find.
fn refusal<E>(operation: impl Into<String>, error: &SdkError<E, Response>) -> CredentialsError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match (error.as_service_error(), error.raw_response()) {
        (Some(refused), Some(answer)) => CredentialsError::provider_error(StsRefused {
            operation: operation.into(),
            code: refused.code().unwrap_or_default().to_owned(),
            message: refused.message().unwrap_or_default().to_owned(),
            status: answer.status().as_u16(),
        }),
        _ => CredentialsError::provider_error(trail(error)),
    }
}

/// The credentials of an assumed role; the client that signs with them asks again before they expire.
#[derive(Debug)]
pub(crate) struct AssumedRole {
    role: AssumeRole,
    client: Client,
}

impl AssumedRole {
    /// The role as assumed by whoever `base` is.
    pub(crate) fn new(role: AssumeRole, sts: &Builder, base: SharedCredentialsProvider) -> Self {
        Self {
            role,
            client: client(sts, base),
        }
    }

    async fn assume(&self) -> provider::Result {
        let answer = self
            .client
            .assume_role()
            .role_arn(&self.role.arn)
            .role_session_name(&self.role.session_name)
            .set_external_id(self.role.external_id.clone())
            .send()
            .await
            .map_err(|error| refusal(format!("sts:AssumeRole on {}", self.role.arn), &error))?;
        let credentials = answer
            .credentials()
            .ok_or_else(|| CredentialsError::unhandled("AssumeRole answered without credentials"))?;
        let expiry = SystemTime::try_from(*credentials.expiration())
            .map_err(|error| CredentialsError::unhandled(trail(&error)))?;
        Ok(Credentials::new(
            credentials.access_key_id(),
            credentials.secret_access_key(),
            Some(credentials.session_token().to_owned()),
            Some(expiry),
            "postern-assume-role",
        ))
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.assume())
    }
}

/// Credentials of one account, or none.
///
/// STS is asked once for each access key, which belongs to one account as long as it exists ("`GetAccessKeyInfo`",
/// STS API reference). `GetCallerIdentity` needs no permission (same place), so that every set-up may ask it.
#[derive(Debug)]
pub(crate) struct Checked {
    account: String,
    inner: SharedCredentialsProvider,
    sts: Builder,
    /// The id of the access key that was proven last.
    proven: Mutex<Option<String>>,
}

impl Checked {
    /// The credentials of `inner`, as long as they are of `account`.
    pub(crate) fn new(account: &str, inner: SharedCredentialsProvider, sts: Builder) -> Self {
        Self {
            account: account.to_owned(),
            inner,
            sts,
            proven: Mutex::default(),
        }
    }

    async fn check(&self) -> provider::Result {
        let credentials = self.inner.provide_credentials().await?;
        let mut proven = self.proven.lock().await;
        if proven.as_deref() == Some(credentials.access_key_id()) {
            return Ok(credentials);
        }
        let answer = client(&self.sts, SharedCredentialsProvider::new(credentials.clone()))
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| refusal("sts:GetCallerIdentity", &error))?;
        let actual = answer
            .account()
            .ok_or_else(|| CredentialsError::unhandled("GetCallerIdentity answered without an account"))?;
        if actual != self.account {
            return Err(CredentialsError::provider_error(WrongAccount {
                actual: actual.to_owned(),
                configured: self.account.clone(),
            }));
        }
        *proven = Some(credentials.access_key_id().to_owned());
        Ok(credentials)
    }
}

impl ProvideCredentials for Checked {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.check())
    }
}
