//! `postern migrate`.

use anyhow::Context as _;
use postern_core::{
    audit::Actor,
    time::{Clock as _, RandomIds, SystemClock},
};
use postern_store::{Store, StoreError};

use crate::{cli::MigrateArgs, config::Config, exit::Failure, logging, output, service};

/// Applies outstanding migrations, doubts the database where it was restored, and ends.
pub async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config.config)?;
    logging::start(&config.logging.filter, config.logging.format)?;
    let store = service::connect(&config.database.url()?, 2).await?;
    service::prepare(&store, &config.installation.name).await?;
    if args.restored {
        let points = doubt(&store).await.context("the database cannot be doubted")?;
        output::note(&format!(
            "{points} enforcement points are looked at before anything is opened again"
        ))?;
    }
    store.close().await;
    output::note("the database is up to date")?;
    Ok(())
}

/// Doubts everything, and says in the audit log that somebody said so.
async fn doubt(store: &Store) -> Result<usize, StoreError> {
    let now = SystemClock.now();
    let mut tx = store.begin().await?;
    let restore = tx.doubt_everything(now).await?;
    let actor = Actor::System {
        component: "migrate".to_owned(),
    };
    tx.audit(&[postern_engine::restored(&restore, actor, now, &RandomIds)])
        .await?;
    tx.commit().await?;
    Ok(restore.points)
}
