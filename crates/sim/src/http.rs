//! The HTTP server of a simulator: loopback only, faults in front of the cloud, connections that can be reset.
//!
//! Beside the cloud's own paths it answers at `/_sim/`, for tests whose simulator runs in another process:
//!
//! | path | |
//! |---|---|
//! | `GET`, `POST`, `DELETE /_sim/faults`, `DELETE /_sim/faults/{id}` | see [`FaultRule`] |
//! | `GET /_sim/truth?since=N` | the changes numbered above N |
//! | `GET /_sim/state` | everything that the cloud holds |
//! | `GET`, `DELETE /_sim/calls` | counters by operation; `DELETE` resets them |
//! | `GET /_sim/reachable?machine=&source=&port=&protocol=[&seq=\|&time=]` | `{"reachable": bool}` |
//! | `GET /_sim/lands?source=&address=&port=&protocol=` | where a packet to a public address gets to: `{"machine", "port"}`, or `null`; Azure's alone |
//! | `GET /_sim/open-intervals?machine=&source=&port=&protocol=` | `[{"from", "to"}]` |

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::count::Calls;
use crate::fault::{Effect, FaultId, FaultRule, Faults};
use crate::truth::{Judge, Moment, Probe, Protocol, Truth};

/// How long [`Handle::stop`] waits for calls under way.
const GRACE: Duration = Duration::from_secs(2);

/// The largest request body taken: 4 MiB, which holds an NSG with a thousand rules.
pub const BODY_LIMIT: usize = 4 << 20;

/// The error of a fault rule, to be put into the cloud's own shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The HTTP status.
    pub status: StatusCode,
    /// The cloud's error code.
    pub code: String,
    /// The error message.
    pub message: String,
}

/// One simulated cloud behind the server. Every method is one atomic step on its state.
pub trait Cloud: Send + Sync + 'static {
    /// The operation that a request names, for faults and counters; a made-up name such as `Unknown` where
    /// it names none.
    fn operation(&self, request: &Request<Bytes>) -> String;

    /// Does what the request asks and answers it.
    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes>;

    /// The answer of a call that a fault rule refuses. The server adds `Retry-After`.
    fn failure(&self, request: &Request<Bytes>, failure: &Failure) -> Response<Bytes>;

    /// Carries out what is due by now (an instance that was stopping is stopped), so that the truth log is
    /// up to date. Called before each look at log or state over HTTP.
    fn settle(&self);

    /// Everything that the cloud holds.
    fn state(&self) -> Value;

    /// What decides reachability in this cloud.
    fn judge(&self) -> &dyn Judge;

    /// The machine and port that a packet gets to, if to any; none where the simulator cannot tell.
    fn lands(&self, _packet: &Packet) -> Option<Option<(String, u16)>> {
        None
    }
}

/// A packet to a public address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it is sent to.
    pub address: IpAddr,
    /// To which port there.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What every simulator carries beside its state; clones share all three.
#[derive(Debug, Clone, Default)]
pub struct Instruments {
    /// The fault layer.
    pub faults: Faults,
    /// The truth log.
    pub truth: Truth,
    /// The call counters.
    pub calls: Calls,
}

impl Instruments {
    /// Instruments whose fault dice follow from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self {
            faults: Faults::seeded(seed),
            ..Self::default()
        }
    }
}

/// A running server. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Handle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:<port>`, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Takes no new connection, lets calls under way end for up to two seconds and closes the rest.
    pub async fn stop(&self) {
        self.stop.cancel();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::debug!(addr = %self.addr, "simulator stopped with connections still busy");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves a cloud on `127.0.0.1:port`; port zero takes any that is free.
///
/// # Errors
/// The port cannot be bound.
pub async fn serve(cloud: Arc<dyn Cloud>, instruments: Instruments, port: u16) -> io::Result<Handle> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(accept(
        listener,
        Arc::new(Front { cloud, instruments }),
        stop.clone(),
        tasks.clone(),
    ));
    tasks.close();
    Ok(Handle { addr, stop, tasks })
}

async fn accept(listener: TcpListener, front: Arc<Front>, stop: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(converse(stream, Arc::clone(&front), stop.clone()));
            }
            Err(error) => {
                // Out of file handles, most likely: give connections a moment to end.
                tracing::warn!(%error, "simulator could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection until it ends or is reset.
async fn converse(stream: TcpStream, front: Arc<Front>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "simulator could not set nodelay");
    }
    let reset = Arc::new(AtomicBool::new(false));
    let stream = Resettable {
        stream,
        reset: Arc::clone(&reset),
    };
    let service = service_fn({
        let stop = stop.clone();
        move |request| {
            let (front, reset, stop) = (Arc::clone(&front), Arc::clone(&reset), stop.clone());
            // A task of its own: a cloud carries out what it took in, also when the client has gone.
            let work = tokio::spawn(async move {
                tokio::select! {
                    outcome = front.answer(request) => outcome,
                    () = hard_stop(stop) => Err(Reset),
                }
            });
            async move {
                let outcome = work.await.unwrap_or(Err(Reset));
                if outcome.is_err() {
                    reset.store(true, Ordering::SeqCst);
                }
                outcome.map(|response| response.map(Full::new))
            }
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "simulator connection ended early");
    }
}

/// Ends when the server was told to stop and the grace is over.
async fn hard_stop(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// A TCP stream that, once marked, ends with a reset instead of an orderly close.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::SeqCst)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::warn!(%error, "simulator could not reset a connection");
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::SeqCst) {
            // An orderly end would tell the client that the answer is complete.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The connection is to be reset instead of answered.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection reset by a fault rule")
    }
}

impl std::error::Error for Reset {}

/// The faults and the control endpoint in front of a cloud.
struct Front {
    cloud: Arc<dyn Cloud>,
    instruments: Instruments,
}

impl Front {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Bytes>, Reset> {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Ok(plain(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the body is larger than 4 MiB",
                ));
            }
            // The client went away in the middle of its request.
            Err(_) => return Err(Reset),
        };
        let request = Request::from_parts(head, body);
        if let Some(path) = request.uri().path().strip_prefix("/_sim/") {
            return Ok(self.control(path, &request));
        }
        let operation = self.cloud.operation(&request);
        self.instruments.calls.count(&operation);
        let verdict = self.instruments.faults.decide(&operation);
        if !verdict.latency.is_zero() {
            tokio::time::sleep(verdict.latency).await;
        }
        match verdict.effect {
            Some(Effect::ResetBefore) => Err(Reset),
            Some(Effect::ResetAfter) => {
                self.cloud.answer(&request);
                Err(Reset)
            }
            Some(Effect::Status {
                status,
                code,
                message,
                retry_after,
            }) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let mut response = self.cloud.failure(
                    &request,
                    &Failure {
                        status,
                        code,
                        message,
                    },
                );
                if let Some(seconds) = retry_after {
                    response
                        .headers_mut()
                        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
                Ok(response)
            }
            Some(Effect::Latency(_)) | None => Ok(self.cloud.answer(&request)),
        }
    }

    fn control(&self, path: &str, request: &Request<Bytes>) -> Response<Bytes> {
        let Instruments { faults, truth, calls } = &self.instruments;
        self.cloud.settle();
        let query = Query::of(request);
        let answered = match (request.method(), path) {
            (&Method::GET, "faults") => Ok(to_json(&faults.list())),
            (&Method::POST, "faults") => serde_json::from_slice::<FaultRule>(request.body())
                .map(|rule| json!({ "id": faults.add(rule) }))
                .map_err(|error| format!("not a fault rule: {error}")),
            (&Method::DELETE, "faults") => {
                faults.clear();
                Ok(Value::Null)
            }
            (&Method::DELETE, path) if path.starts_with("faults/") => {
                match path.trim_start_matches("faults/").parse().map(FaultId) {
                    Ok(id) if faults.remove(id) => Ok(Value::Null),
                    _ => Err("no such fault rule".to_owned()),
                }
            }
            (&Method::GET, "truth") => query.since().map(|seq| to_json(&truth.since(seq))),
            (&Method::GET, "state") => Ok(self.cloud.state()),
            (&Method::GET, "calls") => Ok(to_json(&calls.all())),
            (&Method::DELETE, "calls") => {
                calls.reset();
                Ok(Value::Null)
            }
            (&Method::GET, "reachable") => query.probe().and_then(|probe| {
                let at = query.moment()?;
                Ok(json!({ "reachable": truth.reachable(self.cloud.judge(), &probe, at) }))
            }),
            (&Method::GET, "lands") => query.packet().and_then(|packet| {
                let landed = self
                    .cloud
                    .lands(&packet)
                    .ok_or("this cloud's simulator cannot tell")?;
                Ok(landed.map_or(
                    Value::Null,
                    |(machine, port)| json!({ "machine": machine, "port": port }),
                ))
            }),
            (&Method::GET, "open-intervals") => query
                .probe()
                .map(|probe| to_json(&truth.open_intervals(self.cloud.judge(), &probe))),
            _ => return plain(StatusCode::NOT_FOUND, "no such control endpoint"),
        };
        match answered {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(message) => json_response(StatusCode::BAD_REQUEST, &json!({ "error": message })),
        }
    }
}

/// The query parameters of a control request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<Bytes>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(
            url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| format!("parameter `{name}` cannot be `{text}`"))
            })
            .transpose()
    }

    fn required<T: std::str::FromStr>(&self, name: &str) -> Result<T, String> {
        self.parsed(name)?
            .ok_or_else(|| format!("parameter `{name}` is missing"))
    }

    fn since(&self) -> Result<u64, String> {
        Ok(self.parsed("since")?.unwrap_or(0))
    }

    fn moment(&self) -> Result<Option<Moment>, String> {
        if let Some(seq) = self.parsed("seq")? {
            return Ok(Some(Moment::Seq(seq)));
        }
        Ok(self.parsed::<DateTime<Utc>>("time")?.map(Moment::Time))
    }

    fn probe(&self) -> Result<Probe, String> {
        Ok(Probe {
            machine: self.required("machine")?,
            source: self.required("source")?,
            port: self.required("port")?,
            protocol: self.protocol()?,
        })
    }

    fn packet(&self) -> Result<Packet, String> {
        Ok(Packet {
            source: self.required("source")?,
            address: self.required("address")?,
            port: self.required("port")?,
            protocol: self.protocol()?,
        })
    }

    fn protocol(&self) -> Result<Protocol, String> {
        let protocol = self.get("protocol").unwrap_or("tcp");
        serde_json::from_value(json!(protocol))
            .map_err(|_| format!("parameter `protocol` cannot be `{protocol}`"))
    }
}

fn to_json<T: Serialize>(value: &T) -> Value {
    // INVARIANT: what is shown here are plain records, which always have a JSON form.
    serde_json::to_value(value).unwrap_or_default()
}

/// A JSON answer.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Bytes> {
    respond(status, "application/json; charset=utf-8", value.to_string())
}

fn plain(status: StatusCode, message: &str) -> Response<Bytes> {
    respond(status, "text/plain; charset=utf-8", message.to_owned())
}

/// An answer with a body of the given content type.
pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
