//! Hearing that access requests move: that they are decided, that their grants open, end and close.
//!
//! Triggers on the tables notify, in the transaction of the change.

use postern_core::id::RequestId;
use sqlx::postgres::PgListener;

use crate::{Store, StoreError};

const CHANNEL: &str = "postern_progress";

/// What moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This request, or a grant of it.
    Request(RequestId),
    /// Many at once, or the connection was lost meanwhile: any may have moved.
    Many,
}

/// Hears of progress.
#[derive(Debug)]
pub struct ProgressListener {
    inner: PgListener,
}

impl ProgressListener {
    /// Waits for the next progress by anybody. An error when the connection is lost and cannot be had again.
    pub async fn heard(&mut self) -> Result<Progress, StoreError> {
        Ok(match self.inner.try_recv().await? {
            Some(heard) => heard
                .payload()
                .parse()
                .map_or(Progress::Many, |id| Progress::Request(RequestId::from_uuid(id))),
            None => Progress::Many,
        })
    }
}

impl Store {
    /// Starts to listen, on a connection of its own.
    pub async fn progress_listener(&self) -> Result<ProgressListener, StoreError> {
        let mut inner = PgListener::connect_with(&self.pool).await?;
        inner.listen(CHANNEL).await?;
        Ok(ProgressListener { inner })
    }
}
