//! `postern health`: the probe for container engines, whose images have no other HTTP client.

use std::time::Duration;

use anyhow::Context as _;
use url::Url;

use crate::{
    cli::HealthArgs,
    exit::{Exit, Failure},
    output,
};

/// Asks the server's `/readyz`.
pub async fn run(args: HealthArgs) -> Result<(), Failure> {
    let base: Url = args
        .server
        .parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("`{}` is no address: {error}", args.server)))?;
    let ready = base
        .join("/readyz")
        .map_err(|error| Failure::new(Exit::Usage, format!("`{base}` is no base address: {error}")))?;
    // An error means that the process has a provider already, which serves as well.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(4))
        .build()
        .context("no HTTP client could be made")?;
    let answer = http
        .get(ready.clone())
        .send()
        .await
        .with_context(|| format!("{ready} does not answer"))?;
    let status = answer.status();
    if !status.is_success() {
        let said = answer.text().await.unwrap_or_default();
        return Err(Failure::new(
            Exit::Failure,
            format!("not ready ({status}): {said}"),
        ));
    }
    output::note("ready")?;
    Ok(())
}
