//! Long-running operations: a write is done when the operation that it started is.
//!
//! Source: "Track asynchronous Azure operations" (Azure Resource Manager documentation): `Azure-AsyncOperation`
//! before `Location`, `Retry-After` where given, `Succeeded`, `Failed` and `Canceled` as ends.

use std::time::Duration;

use postern_core::enforcer::EnforceError;
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    client::{Answer, Arm, Call},
    failure,
    id::ArmId,
};

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Where an operation tells how it goes.
enum Watch {
    /// A status document.
    Status(url::Url),
    /// 202 until it is done.
    Result(url::Url),
    /// The resource's own `provisioningState`.
    Resource(url::Url),
}

/// A write that was not done, as far as is known.
#[derive(Debug)]
pub(crate) struct NotWritten {
    /// Whether ARM took it: then what is shown has changed already.
    pub(crate) accepted: bool,
    /// Why.
    pub(crate) error: EnforceError,
}

impl From<NotWritten> for EnforceError {
    fn from(not: NotWritten) -> Self {
        not.error
    }
}

impl Arm {
    /// Makes a write and waits for its operation, no longer than `within` for both together.
    pub(crate) async fn write(
        &self,
        call: &Call<'_>,
        body: Option<&Value>,
        if_match: Option<&str>,
        within: Duration,
    ) -> Result<Answer, NotWritten> {
        let deadline = Instant::now() + within;
        let late = |accepted| NotWritten {
            accepted,
            error: EnforceError::Unavailable {
                operation: call.action.to_owned(),
                message: format!("not done within {} s", within.as_secs_f32()),
            },
        };
        let not = |accepted| move |error| NotWritten { accepted, error };
        let answer = timeout_at(deadline, self.send(call, body, if_match))
            .await
            .map_err(|_| late(false))?
            .map_err(not(false))?;
        timeout_at(deadline, self.wait(call, &answer))
            .await
            .map_err(|_| late(true))?
            .map_err(not(true))?;
        Ok(answer)
    }

    /// Asks a resource something that takes ARM a while (a POST that answers 202 and `Location`), and gives the answer.
    /// Ends only with it: the caller says how long is long enough.
    pub(crate) async fn result_of(
        &self,
        id: &ArmId,
        question: &str,
        api_version: &str,
        action: &str,
    ) -> Result<Value, EnforceError> {
        let call = Call {
            method: Method::POST,
            url: self.address(id.segments().chain([question]), api_version, &[])?,
            action,
            resource: id.to_string(),
        };
        let mut answer = self.send(&call, None, None).await?;
        let Some(location) = answer.location.take().filter(|_| answer.status == 202) else {
            return Ok(answer.body);
        };
        let poll = Call {
            method: Method::GET,
            url: self.own(&location, "`Location`")?,
            action: "Microsoft.Network/locations/operationResults/read",
            resource: id.to_string(),
        };
        let (mut backoff, mut after) = (FIRST_WAIT, answer.retry_after);
        loop {
            sleep(after.unwrap_or(backoff)).await;
            backoff = (backoff * 2).min(LONGEST_WAIT);
            let answer = self.send(&poll, None, None).await?;
            if answer.status != 202 {
                return Ok(answer.body);
            }
            after = answer.retry_after;
        }
    }

    /// The first look is at once: small changes are often done by then.
    async fn wait(&self, call: &Call<'_>, answer: &Answer) -> Result<(), EnforceError> {
        let Some(watch) = self.watch(call, answer)? else {
            return Ok(());
        };
        if let Some(after) = answer.retry_after {
            sleep(after).await;
        }
        let mut backoff = FIRST_WAIT;
        loop {
            let (done, after) = match self.look(call, &watch).await {
                Ok(look) => look,
                // The operation goes on whether we hear of it or not.
                Err(EnforceError::Throttled { retry_after, .. }) => (false, retry_after),
                Err(EnforceError::Unavailable { .. }) => (false, None),
                Err(error) => return Err(error),
            };
            if done {
                return Ok(());
            }
            sleep(after.unwrap_or(backoff)).await;
            backoff = (backoff * 2).min(LONGEST_WAIT);
        }
    }

    fn watch(&self, call: &Call<'_>, answer: &Answer) -> Result<Option<Watch>, EnforceError> {
        let under_way = match provisioning(&answer.body) {
            Some("Succeeded") => false,
            Some(_) => true,
            None => answer.status == 202,
        };
        if !under_way {
            return Ok(None);
        }
        Ok(if let Some(text) = &answer.azure_async_operation {
            Some(Watch::Status(self.own(text, "`Azure-AsyncOperation`")?))
        } else if let Some(text) = answer.location.as_ref().filter(|_| answer.status == 202) {
            Some(Watch::Result(self.own(text, "`Location`")?))
        } else if call.method == Method::PUT {
            Some(Watch::Resource(call.url.clone()))
        } else {
            None
        })
    }

    /// Whether the operation is done, and when to look again.
    async fn look(&self, call: &Call<'_>, watch: &Watch) -> Result<(bool, Option<Duration>), EnforceError> {
        let (Watch::Status(url) | Watch::Result(url) | Watch::Resource(url)) = watch;
        let poll = Call {
            method: Method::GET,
            url: url.clone(),
            action: match watch {
                Watch::Status(_) => "Microsoft.Network/locations/operations/read",
                Watch::Result(_) => "Microsoft.Network/locations/operationResults/read",
                Watch::Resource(_) => call.action,
            },
            resource: call.resource.clone(),
        };
        let answer = match (self.send(&poll, None, None).await, watch) {
            // The resource that was being written, or its group, went away: look at it.
            (Err(EnforceError::Gone { code, .. }), Watch::Status(_) | Watch::Result(_)) => {
                return Err(EnforceError::Unavailable {
                    operation: call.action.to_owned(),
                    message: format!("its operation is not known any more ({code})"),
                });
            }
            (answer, _) => answer?,
        };
        let state = match watch {
            Watch::Status(_) => answer.body.get("status").and_then(Value::as_str),
            Watch::Result(_) if answer.status == 202 => Some("InProgress"),
            Watch::Result(_) => Some("Succeeded"),
            Watch::Resource(_) => provisioning(&answer.body),
        };
        match state {
            Some("Succeeded") => Ok((true, None)),
            Some(state @ ("Failed" | "Canceled")) => Err(failure::of_operation(
                call.action,
                &call.resource,
                state,
                &answer.body,
            )),
            Some(_) => Ok((false, answer.retry_after)),
            None => Err(EnforceError::Malformed(format!(
                "the operation of {} has no `status`",
                call.action
            ))),
        }
    }
}

fn provisioning(body: &Value) -> Option<&str> {
    body.pointer("/properties/provisioningState")
        .and_then(Value::as_str)
}
