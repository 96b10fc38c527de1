//! The database: whether it answers, has this build's schema, is this installation's, and agrees on the time.

use std::{str::FromStr as _, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use postern_core::time::Clock;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::Check;
use crate::{
    config::{Config, NoSecret},
    service,
};

const NAME: &str = "database";
const CLOCK: &str = "clock";

/// The longest that connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// From which difference on somebody should know.
const NOTICED: TimeDelta = TimeDelta::seconds(1);

/// From which difference on grants end noticeably early or late, and tokens are refused that are good elsewhere.
const TOO_MUCH: TimeDelta = TimeDelta::seconds(5);

/// The checks of the database, and of the clock against its.
pub(super) async fn examine(config: &Config, clock: &dyn Clock) -> Vec<Check> {
    let url = match config.database.url() {
        Ok(url) => url,
        // Which file it is and why is said under `files`.
        Err(error) if error.is::<NoSecret>() => {
            return vec![Check::failed(NAME, "not tried: its URL cannot be read")];
        }
        Err(error) => return vec![Check::failed(NAME, format!("{error:#}"))],
    };
    let store = match service::connect(&url, 2).await {
        Ok(store) => store,
        Err(error) => return vec![Check::failed(NAME, format!("{error:#}"))],
    };
    let migrated = store.is_migrated().await;
    store.close().await;
    let connected = tokio::time::timeout(PATIENCE, connect(&url)).await;
    let mut connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return vec![Check::failed(NAME, error.to_string())],
        Err(_) => return vec![Check::failed(NAME, format!("no connection within {PATIENCE:?}"))],
    };
    let schema = match migrated {
        Err(error) => Check::failed(NAME, format!("the schema cannot be read: {error}")),
        Ok(false) => Check::warning(
            NAME,
            "answers; migrations are outstanding: `postern migrate`, or a server that owns the schema, applies them",
        ),
        Ok(true) => whose(config, &mut connection).await,
    };
    let time = time(&mut connection, clock).await;
    // What matters has been read.
    let _closed = connection.close().await;
    vec![schema, time]
}

async fn connect(url: &SecretString) -> sqlx::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url.expose_secret())?.application_name("postern-doctor");
    PgConnection::connect_with(&options).await
}

async fn whose(config: &Config, connection: &mut PgConnection) -> Check {
    let ours = config.installation.name.as_str();
    let found: sqlx::Result<Option<String>> = sqlx::query_scalar("SELECT name FROM installation")
        .fetch_optional(connection)
        .await;
    match found {
        Err(error) => Check::failed(NAME, format!("whose it is cannot be read: {error}")),
        Ok(Some(name)) if name != ours => Check::failed(
            NAME,
            format!("is the database of installation `{name}`, not of `{ours}`"),
        ),
        Ok(Some(_)) => Check::ok(NAME, format!("answers, is up to date, and is `{ours}`'s")),
        Ok(None) => Check::ok(NAME, "answers, is up to date, and is nobody's yet"),
    }
}

/// The database's time lies between the moments before and after the question.
async fn time(connection: &mut PgConnection, clock: &dyn Clock) -> Check {
    let before = clock.now();
    let theirs: sqlx::Result<DateTime<Utc>> = sqlx::query_scalar("SELECT clock_timestamp()")
        .fetch_one(connection)
        .await;
    let after = clock.now();
    match theirs {
        Ok(theirs) => agreement(before, theirs, after),
        Err(error) => Check::failed(CLOCK, format!("the database does not tell its time: {error}")),
    }
}

fn agreement(before: DateTime<Utc>, theirs: DateTime<Utc>, after: DateTime<Utc>) -> Check {
    // The least by which the two differ, however long the way took.
    let apart = (before - theirs).max(theirs - after).max(TimeDelta::zero());
    let message = format!(
        "{} ms apart from the database, at least",
        apart.num_milliseconds()
    );
    if apart >= TOO_MUCH {
        Check::failed(CLOCK, message)
    } else if apart >= NOTICED {
        Check::warning(CLOCK, message)
    } else {
        Check::ok(CLOCK, "agrees with the database's within a second")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn clocks_differ_by_what_the_way_to_the_database_cannot_explain() {
        let at = |milliseconds| DateTime::from_timestamp_millis(milliseconds).unwrap();
        let verdict = |before, theirs, after| agreement(at(before), at(theirs), at(after)).verdict;
        assert_eq!(verdict(0, 5, 10), Verdict::Ok);
        assert_eq!(verdict(0, 9_000, 10_000), Verdict::Ok, "a slow answer");
        assert_eq!(verdict(0, 2_000, 10), Verdict::Warning);
        assert_eq!(verdict(10_000, 8_500, 10_010), Verdict::Warning);
        assert_eq!(verdict(0, 6_000, 10), Verdict::Failed);
        assert_eq!(verdict(60_000, 0, 60_001), Verdict::Failed);
    }
}
