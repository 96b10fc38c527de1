//! Reads: single resources, lists with their pages, and where operations stand.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::authorization;
use super::id::{ChildKind, Id, Kind};
use super::operation::Work;
use super::references::BackReferences;
use super::refusal::ArmError;
use super::route::Target;
use super::serve::{Answer, Call, Inner};
use super::service_tag;
use super::state::{Resource, State};
use super::view;
use super::write::{group_missing, not_allowed, not_found};

/// Answers a `GET` or `HEAD`.
pub(super) fn get(inner: &Inner, call: &Call<'_>, tenant: &str) -> Result<Answer, ArmError> {
    let state = &inner.state;
    let page_size = inner.settings.page_size;
    match &call.target {
        Target::Subscriptions => {
            let all: Vec<Value> = state
                .subscriptions
                .iter()
                .map(|subscription| view::subscription(subscription, tenant))
                .collect();
            let count = all.len();
            Ok(Answer::ok(
                json!({ "value": all, "count": { "type": "Total", "value": count } }),
            ))
        }
        Target::Subscription(id) => {
            let found = state
                .subscription(id)
                .map(|subscription| view::subscription(subscription, tenant));
            Ok(Answer::ok(found.unwrap_or_default()))
        }
        Target::Groups(subscription) => {
            let within = state
                .groups
                .iter()
                .filter(|(_, group)| group.subscription.eq_ignore_ascii_case(subscription))
                .map(|(key, group)| (key.as_str(), group));
            page(call, page_size, within, |group| Some(view::group(group)))
        }
        Target::Group(subscription, name) => {
            if *call.method == Method::HEAD {
                let there = state.group(subscription, name).is_some();
                return Ok(Answer::empty(if there {
                    StatusCode::NO_CONTENT
                } else {
                    StatusCode::NOT_FOUND
                }));
            }
            let group = state
                .group(subscription, name)
                .ok_or_else(|| group_missing(name))?;
            Ok(Answer::ok(view::group(group)))
        }
        Target::List {
            subscription,
            group,
            kind,
        } => {
            if let Some(group) = group
                && state.group(subscription, group).is_none()
            {
                return Err(group_missing(group));
            }
            let references = state.back_references();
            let within = state
                .of_kind(subscription, group.as_deref(), *kind)
                .map(|(key, resource)| (key.as_str(), resource));
            page(call, page_size, within, |resource| {
                Some(show(call, resource, &references))
            })
        }
        Target::ServiceTags {
            subscription,
            location,
        } => Ok(Answer::ok(service_tag::list(
            &inner.settings.service_tags,
            subscription,
            location,
        ))),
        Target::Resource(id) => {
            let resource = found(state, id)?;
            let shown = show(call, resource, &state.back_references());
            let mut answer = Answer::ok(shown);
            if id.kind != Kind::VirtualMachine {
                answer.headers.push(("etag", resource.etag_text()));
            }
            Ok(answer)
        }
        Target::Children(id, ChildKind::DefaultSecurityRule) => {
            let nsg = found(state, id)?;
            Ok(Answer::ok(json!({ "value": view::default_rules(nsg) })))
        }
        Target::Children(id, kind) => {
            let parent = found(state, id)?;
            let references = state.back_references();
            let within = parent
                .shown()
                .map(|(child, goal)| (child.name.as_str(), (child, goal)));
            page(call, page_size, within, |(child, goal)| {
                Some(view::child(
                    parent,
                    *kind,
                    &child.name,
                    goal,
                    child.provisioning,
                    &references,
                ))
            })
        }
        Target::Child(id) => {
            let parent = found(state, &id.parent())?;
            let shown = child_shown(state, parent, id).ok_or_else(|| not_found(id))?;
            let mut answer = Answer::ok(shown);
            answer.headers.push(("etag", parent.etag_text()));
            Ok(answer)
        }
        Target::Action(id, action) if action == "instanceview" => {
            Ok(Answer::ok(view::instance(found(state, id)?)))
        }
        Target::Authorization { scope, kind, name } => {
            authorization::check_version(*kind, call.api_version())?;
            authorization::check_scope(state, scope)?;
            let known = &state.authorization;
            if let Some(name) = name {
                return known.get(*kind, scope, name, call.api_version()).map(Answer::ok);
            }
            let found = known.list(*kind, scope, call.query("$filter"), call.api_version())?;
            let within = found.iter().map(|(key, shown)| (key.as_str(), shown.clone()));
            page(call, page_size, within, Some)
        }
        Target::Operation { id, .. } | Target::OperationResult { id, .. } => poll(inner, call, id),
        _ => Err(not_allowed()),
    }
}

/// A resource, with the instance view where a machine is asked for it.
fn show(call: &Call<'_>, resource: &Resource, references: &BackReferences) -> Value {
    let mut shown = view::resource(resource, references);
    let asked = |name: &str, word: &str| {
        call.query(name)
            .is_some_and(|value| value.eq_ignore_ascii_case(word))
    };
    if resource.id.kind == Kind::VirtualMachine
        && (asked("$expand", "instanceView") || asked("statusOnly", "true"))
        && let Some(properties) = shown.get_mut("properties").and_then(Value::as_object_mut)
    {
        properties.insert("instanceView".to_owned(), view::instance(resource));
    }
    shown
}

pub(super) fn child_shown(state: &State, parent: &Resource, id: &Id) -> Option<Value> {
    let (kind, name) = id.child.as_ref()?;
    if *kind == ChildKind::DefaultSecurityRule {
        return view::default_rules(parent).into_iter().find(|rule| {
            rule.get("name")
                .and_then(Value::as_str)
                .is_some_and(|rule| rule.eq_ignore_ascii_case(name))
        });
    }
    let child = parent.child(name)?;
    let goal = child.goal.as_ref()?;
    Some(view::child(
        parent,
        *kind,
        &child.name,
        goal,
        child.provisioning,
        &state.back_references(),
    ))
}

fn found<'a>(state: &'a State, id: &Id) -> Result<&'a Resource, ArmError> {
    if state.group(&id.subscription, &id.group).is_none() {
        return Err(group_missing(&id.group));
    }
    state.get(id).ok_or_else(|| not_found(id))
}

/// One page of a list, and the link to the next. The token names the last item shown, so that a list stays
/// whole while others write.
fn page<'a, T>(
    call: &Call<'_>,
    size: usize,
    items: impl Iterator<Item = (&'a str, T)>,
    show: impl Fn(T) -> Option<Value>,
) -> Result<Answer, ArmError> {
    let mut items = items.peekable();
    if let Some(token) = call.query("$skiptoken") {
        let last = unhex(token).ok_or_else(|| {
            ArmError::new(
                400,
                "InvalidSkipToken",
                format!("The skip token '{token}' is invalid."),
            )
        })?;
        let mut passed = false;
        while let Some((key, _)) = items.peek() {
            if passed {
                break;
            }
            passed = *key == last;
            // Lists in order of their keys go on behind the token's even where that item is gone.
            if !passed && last.starts_with('/') && *key > last.as_str() {
                break;
            }
            items.next();
        }
    }
    let mut shown = Vec::new();
    let mut last = String::new();
    while shown.len() < size.max(1) {
        let Some((key, item)) = items.next() else { break };
        key.clone_into(&mut last);
        shown.extend(show(item));
    }
    let mut body = json!({ "value": shown });
    if items.peek().is_some()
        && let Some(body) = body.as_object_mut()
    {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(
            call.query
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("$skiptoken")),
        );
        query.append_pair("$skiptoken", &hex(&last));
        let link = format!("{}{}?{}", call.base, call.path, query.finish());
        body.insert("nextLink".to_owned(), json!(link));
    }
    Ok(Answer::ok(body))
}

fn hex(text: &str) -> String {
    text.bytes()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn unhex(text: &str) -> Option<String> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let bytes = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(high * 16 + low),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

/// Where an operation stands: at `operations` its status, at `operationResults` its outcome.
fn poll(inner: &Inner, call: &Call<'_>, id: &str) -> Result<Answer, ArmError> {
    let subscription = call.target.subscription().unwrap_or_default();
    let operation = Uuid::parse_str(id)
        .ok()
        .and_then(|id| inner.state.operations.get(&id))
        .filter(|operation| operation.subscription.eq_ignore_ascii_case(subscription))
        .ok_or_else(|| {
            ArmError::network(
                404,
                "OperationNotFound",
                format!("The operation '{id}' was not found."),
            )
        })?;
    let again = inner
        .settings
        .retry_after
        .filter(|_| !operation.done)
        .map(|after| ("retry-after", after.to_string()));
    if matches!(call.target, Target::Operation { .. }) {
        let mut answer = Answer::ok(operation.status());
        answer.headers.extend(again);
        return Ok(answer);
    }
    if !operation.done {
        let mut answer = Answer::empty(StatusCode::ACCEPTED);
        let query = call.api_version();
        answer.headers.push((
            "location",
            format!("{}{}?api-version={query}", call.base, call.path),
        ));
        answer.headers.extend(again);
        return Ok(answer);
    }
    if let Some((code, message)) = &operation.failure {
        return Err(ArmError::network(409, code, message.clone()));
    }
    Ok(match (&operation.result, operation.work) {
        (Some(result), _) => Answer::ok(result.clone()),
        (None, Work::Remove) if operation.namespace == Kind::NetworkInterface.namespace() => {
            Answer::empty(StatusCode::NO_CONTENT)
        }
        _ => Answer::empty(StatusCode::OK),
    })
}
