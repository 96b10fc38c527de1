//! The way to the server: its address, the token, repetition of what may be repeated, pages.

use std::{future::Future, path::Path, time::Duration};

use anyhow::Context as _;
use postern_api::{
    client::{Client, ClientError},
    page::{MAX_LIMIT, Page},
};
use postern_core::{
    id::RequestId,
    time::{Clock, IdSource, RandomIds, SystemClock},
};

use crate::{
    cli::Remote,
    exit::{Exit, Failure},
};

/// How often a keyed call without an answer is tried.
const ATTEMPTS: u32 = 3;

/// The variable that may hold the token itself.
const TOKEN: &str = "POSTERN_TOKEN";

/// A client as the command line says.
pub fn client(remote: &Remote) -> Result<Client, Failure> {
    let server = remote.server.as_deref().ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no server is named: use --server, or set POSTERN_SERVER",
        )
    })?;
    let token = match &remote.token_file {
        Some(path) => read_token(path)?,
        None => std::env::var(TOKEN).map_err(|_| {
            Failure::new(
                Exit::Denied,
                format!(
                    "there is no token: use --token-file, or set {TOKEN}; while `postern demo` runs, \
                     `postern token --user ada` prints one"
                ),
            )
        })?,
    };
    Ok(Client::new(server)?.with_token(token.trim()))
}

fn read_token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the token file {} cannot be read", path.display()))?;
    Ok(text)
}

/// A key that makes a repeated call count once.
pub fn idempotency_key() -> String {
    let ids: &dyn IdSource = &RandomIds;
    let id: RequestId = ids.next(SystemClock.now());
    id.hex()
}

/// Makes a call that carries an idempotency key, and makes it again when no answer came: the server answers a
/// repetition with what it answered, or would have answered, the first time.
pub async fn keyed<T, F>(mut call: impl FnMut(String) -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let key = idempotency_key();
    let mut attempt = 1;
    loop {
        match call(key.clone()).await {
            Err(ClientError::Transport(_)) if attempt < ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// The first `limit` items of a list, however many pages that takes. `page` gets a cursor and a page size.
pub async fn all<T, F>(
    limit: u32,
    mut page: impl FnMut(Option<String>, u32) -> F,
) -> Result<Vec<T>, ClientError>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut items: Vec<T> = Vec::new();
    let mut cursor = None;
    loop {
        let left = limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
        if left == 0 {
            return Ok(items);
        }
        let answer = page(cursor, left.min(MAX_LIMIT)).await?;
        items.extend(answer.items);
        match answer.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_followed_up_to_the_limit() {
        let pages = |cursor: Option<String>, size: u32| async move {
            let from: u32 = cursor.map_or(0, |text| text.parse().unwrap());
            let to = (from + size.min(2)).min(5);
            Ok(Page {
                items: (from..to).collect(),
                next_cursor: (to < 5).then(|| to.to_string()),
            })
        };
        assert_eq!(all(100, pages).await.unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(all(3, pages).await.unwrap(), [0, 1, 2]);
        assert_eq!(all(0, pages).await.unwrap(), [0_u32; 0]);
    }

    #[tokio::test]
    async fn a_refusal_is_not_repeated() {
        let mut calls = 0;
        let answer: Result<(), _> = keyed(|_| {
            calls += 1;
            async { Err(ClientError::Address("x".to_owned())) }
        })
        .await;
        assert!(answer.is_err());
        assert_eq!(calls, 1);
    }
}
