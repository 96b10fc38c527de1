//! `GET /v1/machines`: the machines that the caller may see.

use std::sync::Arc;

use axum::{Json, extract::State};
use chrono::TimeDelta;
use postern_api::{
    ErrorCode, Page, Problem,
    machine::{Machine, MachineQuery},
};
use postern_authz::Resource;
use postern_core::{machine::Cloud, posture::PostureKind, role::Action, scope::Scope};
use postern_store::{MachineFilter, Visible};

use crate::{
    failure::Failure,
    flow::{
        authenticate::Caller,
        page,
        query::{Parameters, parsed},
    },
    shape::machine,
    state::App,
};

/// The machines that you may read, by id.
///
/// A page may hold fewer than `limit`, where a guardrail forbids some.
#[utoipa::path(
    get, path = "/v1/machines", tag = "machines", operation_id = "listMachines",
    params(MachineQuery),
    responses(
        (status = 200, description = "A page of them.", body = Page<Machine>),
        (status = 400, description = "`invalid_query`, `invalid_scope`, `invalid_limit`, `invalid_cursor`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other problem.", body = Problem,
         content_type = "application/problem+json")
    )
)]
pub(crate) async fn list_machines(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(query): Parameters<MachineQuery>,
) -> Result<Json<Page<Machine>>, Failure> {
    let limit = page::limit(query.limit)?;
    let after = page::key(query.cursor.as_deref())?;
    let cloud = parsed::<Cloud>("cloud", query.cloud.as_deref())?;
    let posture = query.posture.as_deref().map(posture).transpose()?;
    let tags = query.tag.as_deref().map(tag).transpose()?.into_iter().collect();
    let scope = query
        .scope
        .map(|scope| {
            scope
                .parse::<Scope>()
                .map_err(|error| Failure::new(ErrorCode::InvalidScope, error.to_string()))
        })
        .transpose()?;
    let Some(scope) = within(scope, cloud)? else {
        return Ok(Json(Page {
            items: Vec::new(),
            next_cursor: None,
        }));
    };
    let authorizer = app.authorizer().await?;
    let filter = MachineFilter {
        visible: Visible {
            scopes: authorizer.scopes(&caller.principal, Action::Read, app.now()),
            own: None,
        },
        visible_by_tags: authorizer.tagged_scopes(&caller.principal, Action::Read, app.now()),
        scope: Some(scope),
        posture,
        tags,
        text: query.text,
        drift_since: query
            .drift
            .unwrap_or(false)
            .then(|| app.now() - TimeDelta::days(1)),
        policy: None,
        with_gone: false,
    };
    let found = app.store.machines(&filter, after.as_ref(), limit).await?;
    let next_cursor = found.next.as_ref().map(page::cursor);
    let visible = app.not_forbidden(&authorizer, &caller, Action::Read, found.items, |stored| {
        vec![Resource::machine(
            stored.machine.id.scope(),
            stored.machine.tags.clone(),
        )]
    });
    Ok(Json(Page {
        items: visible.iter().map(machine::show).collect(),
        next_cursor,
    }))
}

fn posture(word: &str) -> Result<PostureKind, Failure> {
    [
        PostureKind::Configured,
        PostureKind::Recommended,
        PostureKind::Healthy,
        PostureKind::NotApplicable,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == word)
    .ok_or_else(|| {
        Failure::new(
            ErrorCode::InvalidQuery,
            "`posture` is `configured`, `recommended`, `healthy` or `not_applicable`",
        )
    })
}

fn tag(text: &str) -> Result<(String, String), Failure> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| Failure::new(ErrorCode::InvalidQuery, "`tag` is `key=value`"))
}

/// The scope that both a scope and a cloud leave; none when they have nothing in common.
fn within(scope: Option<Scope>, cloud: Option<Cloud>) -> Result<Option<Scope>, Failure> {
    let scope = scope.unwrap_or(Scope::root());
    let Some(cloud) = cloud else {
        return Ok(Some(scope));
    };
    let cloud: Scope = format!("/{cloud}").parse().map_err(Failure::internal)?;
    Ok(if cloud.contains(&scope) {
        Some(scope)
    } else if scope.contains(&cloud) {
        Some(cloud)
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_and_a_scope_narrow_each_other() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        let deep = scope("/aws/123456789012");
        assert_eq!(within(None, None).unwrap(), Some(Scope::root()));
        assert_eq!(within(None, Some(Cloud::Aws)).unwrap(), Some(scope("/aws")));
        assert_eq!(
            within(Some(deep.clone()), Some(Cloud::Aws)).unwrap(),
            Some(deep.clone())
        );
        assert_eq!(within(Some(deep), Some(Cloud::Azure)).unwrap(), None);
    }
}
