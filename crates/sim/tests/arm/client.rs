//! A plain HTTP client of the ARM simulator, which looks at status, headers and body as they come.
use std::collections::BTreeMap;
use std::time::Duration;

use postern_sim::arm::ArmHandle;
use serde_json::{Value, json};

/// The subscription that a simulator has where nothing else is said.
pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body; null where it is empty.
    pub(crate) body: Value,
    headers: BTreeMap<String, String>,
}

impl Answer {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }

    /// The error's message.
    pub(crate) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    /// Fails unless this is that refusal.
    pub(crate) fn refused(&self, status: u16, code: &str) {
        let found = self.body["error"]["code"].as_str().unwrap_or_default();
        assert_eq!((self.status, found), (status, code), "{}", self.body);
    }
}

/// A caller with a token.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    tenant: String,
    authorization: Option<String>,
}

fn http() -> reqwest::Client {
    // Ignored where a provider is there already: tests of one process share it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .unwrap()
}

/// Asks for a token; status and body.
pub(crate) async fn token(url: &str, tenant: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let answer = http()
        .post(format!("{url}/{tenant}/oauth2/v2.0/token"))
        .form(form)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

impl Client {
    /// The client `test`, with a token.
    pub(crate) async fn of(sim: &ArmHandle) -> Self {
        Self::named(sim, "test", "any").await
    }

    /// A client with an id and a secret, with a token.
    pub(crate) async fn named(sim: &ArmHandle, id: &str, secret: &str) -> Self {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("scope", "https://management.azure.com/.default"),
        ];
        let (status, body) = token(&sim.url(), sim.tenant(), &form).await;
        assert_eq!(status, 200, "{body}");
        let authorization = Some(format!("Bearer {}", body["access_token"].as_str().unwrap()));
        Self {
            http: http(),
            url: sim.url(),
            tenant: sim.tenant().to_owned(),
            authorization,
        }
    }

    /// A token for another scope.
    pub(crate) async fn token_for(&self, scope: &str) -> Option<String> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "test"),
            ("client_secret", "s"),
            ("scope", scope),
        ];
        let (_, body) = token(&self.url, &self.tenant, &form).await;
        body["access_token"].as_str().map(str::to_owned)
    }

    /// The same client with another `Authorization` header, or none.
    pub(crate) fn with_authorization(&self, header: Option<&str>) -> Self {
        Self {
            authorization: header.map(str::to_owned),
            ..self.clone()
        }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Answer> {
        let query = if path.contains('?') {
            ""
        } else {
            "?api-version=2024-05-01"
        };
        let url = format!("{}{path}{query}", self.url);
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let bytes = answer.bytes().await?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        Ok(Answer {
            status,
            body,
            headers,
        })
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None, &[]).await.unwrap()
    }

    /// What has become of the operation that an answer is the beginning of.
    pub(crate) async fn progress(&self, begun: &Answer) -> Answer {
        let tracker = begun.header("azure-asyncoperation").unwrap();
        self.get(tracker.strip_prefix(&self.url).unwrap()).await
    }

    /// Puts.
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.put_with(path, body, &[]).await
    }

    /// Puts with headers.
    pub(crate) async fn put_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        self.send("PUT", path, Some(body.to_string()), headers)
            .await
            .unwrap()
    }

    /// Puts a body that need not be JSON.
    pub(crate) async fn put_raw(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, Some(body.to_owned()), &[]).await.unwrap()
    }

    /// Puts where the connection may break.
    pub(crate) async fn try_put(&self, path: &str, body: Value) -> reqwest::Result<Answer> {
        self.send("PUT", path, Some(body.to_string()), &[]).await
    }

    /// Patches.
    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body.to_string()), &[])
            .await
            .unwrap()
    }

    /// Posts an action.
    pub(crate) async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, None, &[]).await.unwrap()
    }

    /// Deletes.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.delete_with(path, &[]).await
    }

    /// Deletes with headers.
    pub(crate) async fn delete_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("DELETE", path, None, headers).await.unwrap()
    }
}

/// The body of an inbound allow rule for one port.
pub(crate) fn rule(priority: u16, port: &str) -> Value {
    json!({ "properties": postern_sim::arm::inbound("", priority, "Allow", "203.0.113.7/32", port)["properties"] })
}
