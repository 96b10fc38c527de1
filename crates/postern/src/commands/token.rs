//! `postern token`: asks the running demo's identity provider.

use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{
    cli::TokenArgs,
    demo::place::DemoDir,
    exit::{Exit, Failure},
    output,
};

/// What the demo's identity provider is asked at `/token`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The name of the demo user.
    pub user: String,
    /// How long the token is good for.
    pub seconds: u64,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token.
    pub access_token: String,
}

/// Prints a token of the demo's identity provider.
pub async fn run(args: TokenArgs) -> Result<(), Failure> {
    let dir = DemoDir::choose(args.data_dir)?;
    let state = dir.read()?.ok_or_else(|| {
        Failure::new(
            Exit::NotFound,
            format!(
                "no demo runs: {} has no state; start one with `postern demo`",
                dir.path().display()
            ),
        )
    })?;
    let question = TokenRequest {
        user: args.user,
        seconds: args.duration.as_secs(),
    };
    // An error means that the process has a provider already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(5))
        .no_proxy()
        .build()
        .context("no HTTP client could be made")?;
    let answer = http
        .post(format!("{}/token", state.issuer))
        .json(&question)
        .send()
        .await
        .context("the demo's identity provider does not answer; does `postern demo` still run?")?;
    if !answer.status().is_success() {
        let message = answer.text().await.unwrap_or_default();
        return Err(Failure::new(Exit::Usage, message));
    }
    let token: TokenAnswer = answer
        .json()
        .await
        .context("the demo's identity provider answered something else than a token")?;
    output::line(&token.access_token)?;
    Ok(())
}
