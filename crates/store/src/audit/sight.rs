//! Which events of the audit log may be listed, found by where they lie.

use super::{AuditFilter, Bounds, Order};
use crate::{Store, StoreError};

/// Which events may be listed at all, by where they lie.
#[derive(Debug)]
pub(super) enum Sight {
    /// Every one.
    All,
    /// Those with these numbers, or none of the others is on the page.
    Few(Vec<i64>),
    /// Those at or below these scopes.
    Below(Vec<String>),
}

impl Sight {
    pub(super) fn numbers(&self) -> Option<&[i64]> {
        match self {
            Self::Few(numbers) => Some(numbers),
            Self::All | Self::Below(_) => None,
        }
    }

    pub(super) fn scopes(&self) -> Option<&[String]> {
        match self {
            Self::Below(scopes) => Some(scopes),
            Self::All | Self::Few(_) => None,
        }
    }
}

impl AuditFilter {
    /// Whether nothing is asked for but where events lie.
    fn is_of_place_alone(&self) -> bool {
        let of_place = Self {
            visible: self.visible.clone(),
            scope: self.scope.clone(),
            ..Self::default()
        };
        *self == of_place
    }
}

impl Store {
    /// Which events may be listed by where they lie: who asks may see them, and they are where the filter wants them. Their
    /// numbers are found in the index by scope, when they are few or the page is told by few scopes. Otherwise the log would
    /// be walked through, past what somebody else may see: all of it, where few are theirs.
    pub(super) async fn sight(
        &self,
        bounds: Bounds,
        filter: &AuditFilter,
        after: Option<i64>,
        fetch: i64,
        order: Order,
    ) -> Result<Sight, StoreError> {
        let Some(scopes) = filter.visible.within(filter.scope.as_ref()) else {
            return Ok(Sight::All);
        };
        let mut numbers = None;
        if filter.is_of_place_alone() {
            numbers = self
                .of_places(bounds.places, &scopes, after, fetch, order)
                .await?;
        }
        if numbers.is_none() {
            numbers = self.few(bounds.few, &scopes).await?;
        }
        Ok(match (numbers, filter.visible.scope_texts()) {
            (Some(numbers), _) => Sight::Few(numbers),
            (None, Some(visible)) => Sight::Below(visible),
            (None, None) => Sight::All,
        })
    }

    /// The numbers of the events at or below the scopes, when they are few.
    async fn few(&self, few: i64, scopes: &[String]) -> Result<Option<Vec<i64>>, StoreError> {
        // Not those before or after a cursor alone: an index by scope does not stop at a number.
        let numbers = sqlx::query_scalar!(
            r#"SELECT coalesce(array_agg(seq), '{}') AS "numbers!" FROM (
                   SELECT e.seq FROM unnest($1::text[]) AS v (scope) CROSS JOIN LATERAL (
                       SELECT seq FROM audit_events WHERE scope = v.scope
                       UNION ALL
                       SELECT seq FROM audit_events WHERE scope > v.scope || '/' AND scope < v.scope || '0') AS e
                   LIMIT $2) AS few"#,
            scopes,
            few.saturating_add(1),
        )
        .fetch_one(&self.lists)
        .await?;
        Ok(i64::try_from(numbers.len())
            .is_ok_and(|found| found <= few)
            .then_some(numbers))
    }

    /// The numbers of the events on the page after `after`, when events lie at few scopes: the page's are among the first
    /// so many of those scopes whose own first comes first.
    async fn of_places(
        &self,
        places: i64,
        scopes: &[String],
        after: Option<i64>,
        fetch: i64,
        order: Order,
    ) -> Result<Option<Vec<i64>>, StoreError> {
        macro_rules! of_places {
            ($beyond:literal, $direction:literal, $end:expr) => {
                sqlx::query_scalar!(
                    r#"WITH RECURSIVE below (top, scope) AS (
                           SELECT v.scope COLLATE "C", v.scope COLLATE "C" FROM unnest($1::text[]) AS v (scope)
                           UNION ALL
                           SELECT b.top, (SELECT e.scope FROM audit_events e
                                          WHERE e.scope > CASE WHEN b.scope = b.top THEN b.top || '/' ELSE b.scope END
                                            AND e.scope < b.top || '0'
                                          ORDER BY e.scope LIMIT 1)
                           FROM below b WHERE b.scope IS NOT NULL),
                       place AS MATERIALIZED (SELECT scope FROM below WHERE scope IS NOT NULL LIMIT $2::bigint + 1)
                       SELECT CASE WHEN (SELECT count(*) FROM place) <= $2 THEN coalesce((SELECT array_agg(seq) FROM (
                           SELECT e.seq
                           FROM (SELECT p.scope
                                 FROM (SELECT DISTINCT scope FROM place) AS p CROSS JOIN LATERAL (
                                     SELECT seq FROM audit_events WHERE scope = p.scope AND seq "#
                        + $beyond + "$3
                                     ORDER BY seq " + $direction + " LIMIT 1) AS first
                                 WHERE (SELECT count(*) FROM place) <= $2
                                 ORDER BY first.seq " + $direction + " LIMIT $4) AS p
                           CROSS JOIN LATERAL (
                               SELECT seq FROM audit_events WHERE scope = p.scope AND seq " + $beyond + "$3
                               ORDER BY seq " + $direction + " LIMIT $4) AS e
                           ORDER BY e.seq " + $direction + " LIMIT $4) AS page), '{}') END AS numbers",
                    scopes,
                    places,
                    after.unwrap_or($end),
                    fetch,
                )
                .fetch_one(&self.lists)
                .await?
            };
        }
        Ok(match order {
            Order::NewestFirst => of_places!("<", "DESC", i64::MAX),
            Order::OldestFirst => of_places!(">", "ASC", i64::MIN),
        })
    }
}
