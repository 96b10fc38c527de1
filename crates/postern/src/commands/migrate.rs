//! `postern migrate`.

use crate::{cli::ConfigArgs, config::Config, exit::Failure, logging, output, service};

/// Applies outstanding migrations and ends.
pub async fn run(args: ConfigArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config)?;
    logging::start(&config.logging.filter, config.logging.format)?;
    let store = service::connect(&config.database.url()?, 2).await?;
    service::prepare(&store, &config.installation.name).await?;
    store.close().await;
    output::note("the database is up to date")?;
    Ok(())
}
