//! Who the command line is: where its token comes from, and a client whose token is always a fresh one.
//!
//! A job may outlive its token. A file is read again before its token ends, as whoever writes it renews it; GitHub is asked for
//! another one. Source: `GitHub`, "`OpenID` Connect reference", on requesting the JWT using environment variables.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::dangerous::insecure_decode_claims;
use postern_api::{Client, ClientError, ErrorCode};
use postern_core::time::{Clock as _, SystemClock};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::{Host, Url};

use crate::{
    cli::Remote,
    exit::{Exit, Failure},
};

/// The variable that may hold the token itself. GitLab puts an ID token there when the job's `id_tokens` says so.
const TOKEN: &str = "POSTERN_TOKEN";
const GITHUB_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const GITHUB_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";
/// How long before its end a token is replaced, unless it lasts less than three times as long.
const AHEAD: TimeDelta = TimeDelta::minutes(1);
/// The longest that GitHub may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where tokens come from.
#[derive(Debug)]
enum Source {
    /// A file that somebody keeps fresh.
    File(PathBuf),
    /// Given once, in a variable.
    Given(SecretString),
    /// GitHub's service for the jobs of its Actions.
    Github {
        /// What to ask, audience included.
        url: Url,
        /// Who asks: a secret of the job's.
        bearer: SecretString,
        http: reqwest::Client,
    },
}

#[derive(Debug, Clone)]
struct Token {
    text: SecretString,
    /// When to get the next one, where the token says when it ends.
    replace_at: Option<DateTime<Utc>>,
}

/// A server, and somebody's way to tokens for it.
#[derive(Debug)]
pub struct Identity {
    server: Client,
    source: Source,
    token: Mutex<Option<Token>>,
}

#[derive(Deserialize)]
struct Times {
    iat: Option<i64>,
    exp: Option<i64>,
}

#[derive(Deserialize)]
struct GithubAnswer {
    value: SecretString,
}

impl Token {
    fn new(text: &str) -> Self {
        let text = text.trim();
        // Only its end matters here; whether it is good is the server's to say.
        let times: Option<Times> = insecure_decode_claims(text).ok();
        let replace_at = times.and_then(|times| {
            let end = DateTime::from_timestamp(times.exp?, 0)?;
            let begin = times.iat.and_then(|iat| DateTime::from_timestamp(iat, 0));
            let ahead = begin.map_or(AHEAD, |begin| AHEAD.min((end - begin) / 3));
            Some(end - ahead)
        });
        Self {
            text: SecretString::from(text.to_owned()),
            replace_at,
        }
    }

    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        self.replace_at.is_none_or(|at| now < at)
    }
}

impl Source {
    /// What the command line and the environment offer, the most explicit first.
    fn find(
        remote: &Remote,
        audience: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        if let Some(path) = &remote.token_file {
            return Ok(Self::File(path.clone()));
        }
        if let Some(token) = variable(TOKEN).filter(|token| !token.trim().is_empty()) {
            return Ok(Self::Given(SecretString::from(token)));
        }
        match (variable(GITHUB_URL), variable(GITHUB_TOKEN)) {
            (Some(url), Some(bearer)) => Ok(Self::Github {
                url: github_url(&url, audience)?,
                bearer: SecretString::from(bearer),
                http: github_client()?,
            }),
            _ if variable("GITHUB_ACTIONS").is_some() => Err(Failure::new(
                Exit::Usage,
                "GitHub offers this job no token: give the job `permissions: id-token: write`",
            )),
            _ if variable("GITLAB_CI").is_some() => Err(Failure::new(
                Exit::Usage,
                format!("GitLab gave this job no token: give the job `id_tokens: {TOKEN}: aud: {audience}`"),
            )),
            _ => Err(Failure::new(
                Exit::Usage,
                format!("there is no token: use --token-file, or set {TOKEN}"),
            )),
        }
    }

    async fn get(&self) -> Result<Token, Failure> {
        match self {
            Self::File(path) => {
                let text = tokio::fs::read_to_string(path)
                    .await
                    .with_context(|| format!("the token file {} cannot be read", path.display()))?;
                if text.trim().is_empty() {
                    let told = format!("the token file {} is empty", path.display());
                    return Err(Failure::new(Exit::Denied, told));
                }
                Ok(Token::new(&text))
            }
            Self::Given(text) => Ok(Token::new(text.expose_secret())),
            Self::Github { url, bearer, http } => {
                let answer = http
                    .get(url.clone())
                    .bearer_auth(bearer.expose_secret())
                    .send()
                    .await
                    .and_then(reqwest::Response::error_for_status)
                    // The address holds nothing secret, and is long.
                    .map_err(reqwest::Error::without_url)
                    .context("GitHub gave no token for this job")?;
                let answer: GithubAnswer = answer
                    .json()
                    .await
                    .map_err(reqwest::Error::without_url)
                    .context("GitHub's answer holds no token")?;
                Ok(Token::new(answer.value.expose_secret()))
            }
        }
    }
}

/// GitHub's address with the audience; never one that would send the job's secret in the clear.
fn github_url(text: &str, audience: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::new(Exit::Usage, format!("{GITHUB_URL} is {why}"));
    let mut url = Url::parse(text).map_err(|_| wrong("no address"))?;
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
        return Err(wrong("not an https address"));
    }
    url.query_pairs_mut().append_pair("audience", audience);
    Ok(url)
}

fn github_client() -> Result<reqwest::Client, Failure> {
    // An error means that the process has a provider already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("the HTTP client cannot be set up")?)
}

impl Identity {
    /// As the command line and the environment say.
    pub fn new(remote: &Remote, audience: &str) -> Result<Self, Failure> {
        let server = remote.server.as_deref().ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                "no server is named: use --server, or set POSTERN_SERVER",
            )
        })?;
        Ok(Self {
            server: Client::new(server)?,
            source: Source::find(remote, audience, |name| std::env::var(name).ok())?,
            token: Mutex::new(None),
        })
    }

    /// A client whose token is good for a while.
    pub async fn client(&self) -> Result<Client, Failure> {
        let mut kept = self.token.lock().await;
        if let Some(token) = &*kept
            && token.is_fresh(SystemClock.now())
        {
            return Ok(self.server.clone().with_token(token.text.expose_secret()));
        }
        let token = self.source.get().await?;
        let client = self.server.clone().with_token(token.text.expose_secret());
        *kept = Some(token);
        Ok(client)
    }

    /// Makes a call, and makes it again with a new token where the server calls the token too old: its clock is the one
    /// that counts.
    pub async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        match call(self.client().await?).await {
            Err(error) if expired(&error) => {
                *self.token.lock().await = None;
                Ok(call(self.client().await?).await?)
            }
            Err(error) => {
                // Read while it was being written, perhaps: the next call reads it anew.
                if refused(&error) {
                    *self.token.lock().await = None;
                }
                Err(error.into())
            }
            Ok(answer) => Ok(answer),
        }
    }
}

fn refused(error: &ClientError) -> bool {
    error
        .problem()
        .is_some_and(|problem| matches!(problem.code, ErrorCode::TokenInvalid | ErrorCode::TokenMissing))
}

fn expired(error: &ClientError) -> bool {
    error
        .problem()
        .is_some_and(|problem| problem.code == ErrorCode::TokenExpired)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn token(claims: &serde_json::Value) -> Token {
        let key = EncodingKey::from_secret(b"x");
        Token::new(&jsonwebtoken::encode(&Header::default(), claims, &key).unwrap())
    }

    #[test]
    fn a_token_is_replaced_before_it_ends_and_a_short_one_not_all_the_time() {
        let long = token(&json!({ "iat": 0, "exp": 3600 }));
        assert!(long.is_fresh(at(3539)) && !long.is_fresh(at(3540)));
        let short = token(&json!({ "iat": 0, "exp": 30 }));
        assert!(short.is_fresh(at(19)) && !short.is_fresh(at(20)));
        assert!(Token::new("opaque").is_fresh(at(1 << 40)), "nobody knows its end");
    }

    fn remote(token_file: Option<&str>) -> Remote {
        Remote {
            server: None,
            token_file: token_file.map(PathBuf::from),
            json: false,
        }
    }

    fn found(token_file: Option<&str>, variables: &[(&str, &str)]) -> Result<Source, Failure> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Source::find(&remote(token_file), "postern", variable)
    }

    const GITHUB: [(&str, &str); 3] = [
        ("GITHUB_ACTIONS", "true"),
        (GITHUB_URL, "https://ids.example.com/token?api-version=2.0"),
        (GITHUB_TOKEN, "secret"),
    ];

    #[test]
    fn what_is_said_goes_before_what_the_pipeline_offers() {
        let all: Vec<_> = GITHUB.into_iter().chain([(TOKEN, "t")]).collect();
        assert!(matches!(found(Some("f"), &all), Ok(Source::File(_))));
        assert!(matches!(found(None, &all), Ok(Source::Given(_))));
        let Ok(Source::Github { url, .. }) = found(None, &GITHUB) else {
            panic!("GitHub's")
        };
        assert_eq!(
            url.as_str(),
            "https://ids.example.com/token?api-version=2.0&audience=postern"
        );
    }

    #[test]
    fn a_pipeline_without_a_token_is_told_what_gives_it_one() {
        for (variables, said) in [
            (&GITHUB[..1], "id-token: write"),
            (&[("GITLAB_CI", "true")][..], "id_tokens"),
            (&[(TOKEN, " ")][..], "--token-file"),
            (&[][..], "--token-file"),
        ] {
            let error = found(None, variables).unwrap_err();
            assert_eq!(error.exit(), Exit::Usage);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_refused_is_read_anew_the_next_time_and_an_empty_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let identity = Identity {
            server: Client::new("http://127.0.0.1:1").unwrap(),
            source: Source::File(path.clone()),
            token: Mutex::new(None),
        };
        let kept = async || {
            let kept = identity.token.lock().await;
            kept.as_ref().map(|token| token.text.expose_secret().to_owned())
        };
        let call = async |answer: Result<(), ErrorCode>| {
            let answer = &answer;
            identity
                .call(|_| async move {
                    let problem =
                        |code| ClientError::Problem(Box::new(postern_api::Problem::new(code, "no", "1")));
                    (*answer).map_err(problem)
                })
                .await
        };
        std::fs::write(&path, "half-a-tok").unwrap();
        assert!(call(Err(ErrorCode::TokenInvalid)).await.is_err());
        assert_eq!(kept().await, None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(call(Ok(())).await.unwrap_err().exit(), Exit::Denied);
        std::fs::write(&path, "whole-token\n").unwrap();
        call(Ok(())).await.unwrap();
        assert_eq!(kept().await.as_deref(), Some("whole-token"));
        assert!(call(Err(ErrorCode::Forbidden)).await.is_err());
        assert!(
            kept().await.is_some(),
            "another refusal is no fault of the token's"
        );
    }

    #[test]
    fn the_jobs_secret_does_not_travel_in_the_clear() {
        assert!(github_url("http://127.0.0.1:1/token", "postern").is_ok());
        for text in ["http://ids.example.com/token", "ftp://127.0.0.1/x", "token"] {
            assert!(github_url(text, "postern").is_err(), "{text}");
        }
    }
}
