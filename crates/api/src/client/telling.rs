//! Calls about what happened, and who was told.

use reqwest::Method;

use super::{Client, ClientError, keyed};
use crate::{
    audit_event::{AuditEvent, AuditEventQuery},
    delivery::{Delivery, DeliveryQuery},
    page::Page,
};

impl Client {
    /// Lists audit events.
    pub async fn audit_events(&self, query: &AuditEventQuery) -> Result<Page<AuditEvent>, ClientError> {
        self.get(&["v1", "audit-events"], query).await
    }

    /// Lists deliveries to subscribers.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, ClientError> {
        self.get(&["v1", "deliveries"], query).await
    }

    /// Lets a delivery that was given up be tried again.
    pub async fn replay_delivery(&self, id: i64, key: Option<&str>) -> Result<Delivery, ClientError> {
        let id = id.to_string();
        Self::read(keyed(
            self.call(Method::POST, &["v1", "deliveries", &id, "replay"]),
            key,
        ))
        .await
    }
}
