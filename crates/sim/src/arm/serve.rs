//! The front door: tokens, checks that every call passes, and the way to reads and writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use ipnet::IpNet;
use serde_json::{Value, json};
use uuid::Uuid;

use super::authorization::{self, AuthorizationKind};
use super::body::Body;
use super::effective;
use super::id::Kind;
use super::identity::Identity;
use super::judge::ArmJudge;
use super::path::ParentsNat;
use super::read;
use super::refusal::ArmError;
use super::route::Target;
use super::routing;
use super::state::{Power, State};
use super::throttle::{Class, RequestLimits, Throttle};
use super::view;
use super::write::{Desk, Origin, Written, not_allowed, subscription_known};
use crate::clock::SimClock;
use crate::fault::Faults;
use crate::http::{Cloud, Failure, Instruments, Packet, respond};
use crate::ids::Ids;
use crate::truth::Judge;

/// What can be set while the simulator runs.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) duration: TimeDelta,
    /// How long operations on firewalls and firewall policies take.
    pub(super) firewall_duration: TimeDelta,
    pub(super) service_tags: BTreeMap<String, Vec<IpNet>>,
    pub(super) retry_after: Option<u64>,
    pub(super) busy_status: u16,
    pub(super) page_size: usize,
    pub(super) limits: Option<RequestLimits>,
}

/// All that changes, behind one lock.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) identity: Identity,
    pub(super) throttle: Throttle,
    pub(super) settings: Settings,
}

/// The simulated cloud.
pub(super) struct Arm {
    pub(super) inner: Mutex<Inner>,
    pub(super) instruments: Instruments,
    pub(super) completions: Faults,
    pub(super) clock: Arc<dyn SimClock>,
    pub(super) ids: Ids,
    pub(super) tenant: String,
}

/// One request, read.
pub(super) struct Call<'r> {
    pub(super) method: &'r Method,
    pub(super) path: &'r str,
    pub(super) headers: &'r HeaderMap,
    pub(super) body: &'r [u8],
    pub(super) query: Vec<(String, String)>,
    pub(super) target: Target,
    pub(super) operation: String,
    pub(super) base: String,
    pub(super) request_id: String,
    pub(super) now: DateTime<Utc>,
}

impl Call<'_> {
    /// A query parameter; their names do not care for case.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn api_version(&self) -> &str {
        self.query("api-version").unwrap_or_default()
    }
}

/// An answer before it becomes bytes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self {
            status: StatusCode::OK,
            body: Some(body),
            headers: Vec::new(),
        }
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            headers: Vec::new(),
        }
    }
}

impl Arm {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<'r>(&self, request: &'r Request<Bytes>, now: DateTime<Utc>) -> Call<'r> {
        let (method, path) = (request.method(), request.uri().path());
        let target = Target::of(method, path);
        let query = request.uri().query().unwrap_or_default();
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("127.0.0.1");
        Call {
            method,
            path,
            headers: request.headers(),
            body: request.body(),
            query: url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            operation: target.operation(method),
            target,
            base: format!("http://{host}"),
            request_id: self.ids.uuid().to_string(),
            now,
        }
    }

    /// Answers the identity platform's paths; none where the path is ARM's.
    fn identity(&self, inner: &mut Inner, call: &Call<'_>) -> Option<Response<Bytes>> {
        let base = &call.base;
        let document = match &call.target {
            Target::Token { .. } if call.method != Method::POST => {
                return Some(json_body(
                    StatusCode::METHOD_NOT_ALLOWED,
                    &json!({ "error": "invalid_request" }),
                ));
            }
            Target::Token { .. } => match inner.identity.issue(call.body, &self.ids, call.now) {
                Ok(token) => token,
                Err(refusal) => {
                    return Some(json_body(
                        refusal.status,
                        &refusal.to_value(call.now, &call.request_id),
                    ));
                }
            },
            Target::OpenIdConfiguration { tenant } => json!({
                "issuer": format!("{base}/{tenant}/v2.0"),
                "token_endpoint": format!("{base}/{tenant}/oauth2/v2.0/token"),
                "authorization_endpoint": format!("{base}/{tenant}/oauth2/v2.0/authorize"),
                "jwks_uri": format!("{base}/{tenant}/discovery/v2.0/keys"),
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "response_types_supported": ["code", "id_token", "token"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }),
            Target::InstanceDiscovery => json!({
                "tenant_discovery_endpoint": format!("{base}/{}/v2.0/.well-known/openid-configuration", self.tenant),
                "api-version": "1.1",
                "metadata": [],
            }),
            Target::Endpoints => json!([{
                "name": "Simulator",
                "resourceManager": base,
                "authentication": {
                    "loginEndpoint": base,
                    "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
                    "tenant": "common",
                    "identityProvider": "AAD",
                },
            }]),
            _ => return None,
        };
        Some(json_body(StatusCode::OK, &document))
    }

    fn arm(&self, inner: &mut Inner, call: &Call<'_>) -> Result<Answer, ArmError> {
        let caller = inner
            .identity
            .authenticate(call.headers, &call.base, call.now)?
            .to_owned();
        check_api_version(call.query("api-version"))?;
        if let Some(subscription) = call.target.subscription() {
            subscription_known(&inner.state, subscription)?;
        }
        match &call.target {
            Target::Unknown => {
                let text = format!(
                    "No HTTP resource was found that matches the request URI '{}'.",
                    call.path
                );
                return Err(ArmError::new(404, "NotFound", text));
            }
            Target::UnknownType {
                namespace, segment, ..
            } => {
                let known = Kind::ALL
                    .iter()
                    .any(|kind| kind.namespace().eq_ignore_ascii_case(namespace));
                return Err(if known {
                    let text = format!(
                        "The resource type '{segment}' could not be found in the namespace '{namespace}' for api \
                         version '{}'.",
                        call.api_version()
                    );
                    ArmError::new(404, "InvalidResourceType", text)
                } else {
                    let text = format!("The resource namespace '{namespace}' is invalid.");
                    ArmError::new(404, "InvalidResourceNamespace", text)
                });
            }
            _ => {}
        }
        if let Some(action) = call.target.action(call.method) {
            inner.identity.authorize(&caller, &action, &call.target.scope())?;
        }
        let mut remaining = None;
        if let (Some(limits), Some(subscription)) = (inner.settings.limits, call.target.subscription()) {
            let class = Class::of(call.method);
            match inner
                .throttle
                .take(&limits, subscription, &caller, class, call.now)
            {
                Ok(left) => remaining = Some((class.header(), left.to_string())),
                Err(seconds) => {
                    let text = format!(
                        "Number of '{}' requests for subscription '{subscription}' actor '{caller}' exceeded. \
                         Please try again after '{seconds}' seconds after additional tokens are available. Refer \
                         to https://aka.ms/arm-throttling for additional information.",
                        class.word()
                    );
                    return Err(ArmError::new(429, "SubscriptionRequestsThrottled", text).after(seconds));
                }
            }
        }
        let mut answer = if matches!(*call.method, Method::GET | Method::HEAD) {
            read::get(inner, call, &self.tenant)?
        } else {
            self.change(inner, call, &caller)?
        };
        answer.headers.extend(remaining);
        Ok(answer)
    }

    /// A desk for changes.
    pub(super) fn desk<'a>(&'a self, inner: &'a mut Inner, origin: Origin<'a>) -> Desk<'a> {
        Desk {
            state: &mut inner.state,
            ids: &self.ids,
            truth: &self.instruments.truth,
            completions: &self.completions,
            duration: inner.settings.duration,
            firewall_duration: inner.settings.firewall_duration,
            busy_status: inner.settings.busy_status,
            origin,
        }
    }

    fn change(&self, inner: &mut Inner, call: &Call<'_>, caller: &str) -> Result<Answer, ArmError> {
        if let Target::Authorization {
            scope,
            kind,
            name: Some(name),
        } = &call.target
        {
            return change_authorization(inner, call, scope, *kind, name);
        }
        let retry_after = inner.settings.retry_after;
        let origin = Origin {
            now: call.now,
            operation: &call.operation,
            request_id: &call.request_id,
            caller,
            base: &call.base,
            headers: call.headers,
        };
        let mut desk = self.desk(inner, origin);
        let written = match (call.method.as_str(), &call.target) {
            ("PUT", Target::Group(subscription, name)) => {
                desk.put_group(subscription, name, Body::read(call.body)?)?
            }
            ("DELETE", Target::Group(subscription, name)) => desk.delete_group(subscription, name)?,
            ("PUT", Target::Resource(id)) => desk.put(id, &Body::read(call.body)?)?,
            ("PATCH", Target::Resource(id)) => return Ok(Answer::ok(desk.tag(id, Body::read(call.body)?)?)),
            ("DELETE", Target::Resource(id)) => desk.delete(id)?,
            ("PUT", Target::Child(id)) => desk.put_child(id, &Body::read(call.body)?)?,
            ("DELETE", Target::Child(id)) => desk.delete_child(id)?,
            ("POST", Target::Action(id, action)) => match (id.kind, action.as_str()) {
                (Kind::VirtualMachine, "start" | "restart") => desk.power(id, Power::Running)?,
                (Kind::VirtualMachine, "poweroff") => desk.power(id, Power::Stopped)?,
                (Kind::VirtualMachine, "deallocate") => desk.power(id, Power::Deallocated)?,
                (Kind::NetworkInterface, "effectivenetworksecuritygroups") => {
                    let view = effective::security_groups(desk.state, id)?;
                    desk.deferred(id, view)
                }
                (Kind::NetworkInterface, "effectiveroutetable") => {
                    let view = routing::effective_routes(desk.state, id)?;
                    desk.deferred(id, view)
                }
                _ => return Err(not_allowed()),
            },
            _ => return Err(not_allowed()),
        };
        Ok(written_answer(written, call, retry_after))
    }
}

/// Writes and takes away role assignments and custom roles; deny assignments only Azure itself writes.
fn change_authorization(
    inner: &mut Inner,
    call: &Call<'_>,
    scope: &str,
    kind: AuthorizationKind,
    name: &str,
) -> Result<Answer, ArmError> {
    authorization::check_version(kind, call.api_version())?;
    authorization::check_scope(&inner.state, scope)?;
    let known = &mut inner.state.authorization;
    let created = |body| Answer {
        status: StatusCode::CREATED,
        ..Answer::ok(body)
    };
    match (call.method.as_str(), kind) {
        ("PUT", AuthorizationKind::RoleAssignment) => {
            let properties = Body::read(call.body)?.properties;
            let (shown, is_new) =
                known.put_assignment(scope, name, &properties, call.api_version(), call.now)?;
            Ok(if is_new { created(shown) } else { Answer::ok(shown) })
        }
        ("DELETE", AuthorizationKind::RoleAssignment) => {
            let id = authorization::id_of(scope, kind, name);
            let gone = known.delete_assignment(&id, call.api_version());
            Ok(gone.map_or_else(|| Answer::empty(StatusCode::NO_CONTENT), Answer::ok))
        }
        ("PUT", AuthorizationKind::RoleDefinition) => {
            let properties = Body::read(call.body)?.properties;
            known
                .put_definition(scope, name, &properties, call.now)
                .map(created)
        }
        _ => Err(not_allowed()),
    }
}

/// The answer to a write, with the headers that lead to its operation (as recorded: no `Retry-After`).
fn written_answer(written: Written, call: &Call<'_>, retry_after: Option<u64>) -> Answer {
    let subscription = call.target.subscription().unwrap_or_default();
    let namespace = match &call.target {
        Target::Resource(id) | Target::Child(id) | Target::Action(id, _) => id.kind.namespace(),
        _ => "Microsoft.Resources",
    };
    let track = |tracker: &str, location: &str, id: Uuid| {
        format!(
            "{}/subscriptions/{subscription}/providers/{namespace}/locations/{location}/{tracker}/{id}?api-version={}",
            call.base,
            call.api_version()
        )
    };
    let mut answer = match written {
        Written::Absent => return Answer::empty(StatusCode::NO_CONTENT),
        Written::Put {
            created,
            body,
            operation,
        } => {
            let status = if created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let mut answer = Answer {
                status,
                ..Answer::ok(body)
            };
            let Some((id, location)) = operation else {
                return answer;
            };
            answer
                .headers
                .push(("azure-asyncoperation", track("operations", &location, id)));
            answer
                .headers
                .push(("azure-asyncnotification", "Enabled".to_owned()));
            answer
        }
        Written::Accepted { operation, location } => {
            let mut answer = Answer::empty(StatusCode::ACCEPTED);
            answer
                .headers
                .push(("location", track("operationResults", &location, operation)));
            if namespace != "Microsoft.Resources" {
                answer
                    .headers
                    .push(("azure-asyncoperation", track("operations", &location, operation)));
                answer
                    .headers
                    .push(("azure-asyncnotification", "Enabled".to_owned()));
            }
            answer
        }
    };
    answer
        .headers
        .extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
    answer
}

fn check_api_version(version: Option<&str>) -> Result<(), ArmError> {
    let Some(version) = version.filter(|version| !version.is_empty()) else {
        let text = "The api-version query parameter (?api-version=) is required for all requests.";
        return Err(ArmError::new(400, "MissingApiVersionParameter", text));
    };
    let date = version.strip_suffix("-preview").unwrap_or(version);
    let dated = date.len() == 10 && chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").is_ok();
    if dated {
        return Ok(());
    }
    let text =
        format!("The api-version '{version}' is invalid. The supported versions are dated, YYYY-MM-DD.");
    Err(ArmError::new(400, "InvalidApiVersionParameter", text))
}

fn json_body(status: StatusCode, body: &Value) -> Response<Bytes> {
    respond(status, "application/json; charset=utf-8", body.to_string())
}

fn error_response(error: &ArmError) -> Response<Bytes> {
    let mut response = json_body(error.status, &json!({ "error": error.to_value() }));
    let headers = response.headers_mut();
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(
                "Bearer authorization_uri=\"https://login.microsoftonline.com/\", error=\"invalid_token\"",
            ),
        );
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The headers that every answer carries.
fn stamp(response: &mut Response<Bytes>, headers: &HeaderMap, request_id: &str) {
    let correlation = headers
        .get("x-ms-correlation-request-id")
        .cloned()
        .or_else(|| HeaderValue::from_str(request_id).ok());
    let own = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        own.insert("x-ms-request-id", value);
    }
    if let Some(value) = correlation {
        own.insert("x-ms-correlation-request-id", value);
    }
    if let Some(value) = headers.get("x-ms-client-request-id") {
        own.insert("x-ms-client-request-id", value.clone());
    }
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

impl Cloud for Arm {
    fn operation(&self, request: &Request<Bytes>) -> String {
        Target::of(request.method(), request.uri().path()).operation(request.method())
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let now = self.clock.now();
        let call = self.read(request, now);
        let mut inner = self.lock();
        inner.state.settle(now, &self.ids, &self.instruments.truth);
        if let Some(response) = self.identity(&mut inner, &call) {
            return response;
        }
        let mut response = match self.arm(&mut inner, &call) {
            Ok(Answer {
                status,
                body,
                headers,
            }) => {
                let mut response = body.map_or_else(Response::default, |body| json_body(status, &body));
                *response.status_mut() = status;
                for (name, value) in headers {
                    if let Ok(value) = HeaderValue::from_str(&value) {
                        response
                            .headers_mut()
                            .insert(HeaderName::from_static(name), value);
                    }
                }
                response
            }
            Err(error) => error_response(&error),
        };
        stamp(&mut response, request.headers(), &call.request_id);
        response
    }

    fn failure(&self, request: &Request<Bytes>, failure: &Failure) -> Response<Bytes> {
        let error = ArmError::new(failure.status.as_u16(), &failure.code, failure.message.clone());
        let mut response = error_response(&error);
        stamp(&mut response, request.headers(), &self.ids.uuid().to_string());
        response
    }

    fn settle(&self) {
        let now = self.clock.now();
        self.lock().state.settle(now, &self.ids, &self.instruments.truth);
    }

    fn state(&self) -> Value {
        let inner = self.lock();
        let references = inner.state.back_references();
        let resources: Vec<Value> = inner
            .state
            .resources
            .values()
            .map(|resource| view::resource(resource, &references))
            .collect();
        let groups: Vec<Value> = inner.state.groups.values().map(view::group).collect();
        let under_way: Vec<Value> = inner
            .state
            .pending
            .iter()
            .filter_map(|id| inner.state.operations.get(id))
            .map(|operation| json!({ "id": operation.id, "operation": operation.name, "due": operation.due }))
            .collect();
        json!({ "resourceGroups": groups, "resources": resources, "operations": under_way })
    }

    fn judge(&self) -> &dyn Judge {
        &ArmJudge {
            parents: ParentsNat::NotInherited,
        }
    }

    fn lands(&self, packet: &Packet) -> Option<Option<(String, u16)>> {
        let world = self.instruments.truth.world(None);
        Some(ArmJudge::default().lands(
            &world,
            packet.source,
            packet.address,
            packet.port,
            packet.protocol,
        ))
    }
}
