//! The two servers under test: this binary itself, told to serve, as processes that can be killed.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use chrono::TimeDelta;
use postern::{
    commands::serve,
    config::Config,
    demo::{
        fleet::{ACCESS_KEY_ID, SECRET_ACCESS_KEY},
        issuer::Issuer,
    },
    enforcers, logging,
};
use postern_api::client::Client;
use postern_core::time::{Clock, Instant, RandomIds, SystemClock};
use tokio::process::{Child, Command};

use crate::sabotage;

/// By how many milliseconds the server's clock is ahead.
pub const CLOCK_AHEAD: &str = "POSTERN_CLOCK_AHEAD_MS";
/// At which point of a pass the server dies: `<point>=<nth>`.
pub const CRASH_AT: &str = "POSTERN_CRASH_AT";

/// The machine's clock, set wrong.
#[derive(Debug)]
struct WrongClock(TimeDelta);

impl Clock for WrongClock {
    fn now(&self) -> Instant {
        SystemClock.now() + self.0
    }
}

/// Serves until told to stop, as `postern serve` does, with whatever the environment says is wrong. Ends with the
/// campaign, however that ends: the other end of its standard input is then closed.
pub async fn serve(config: &Path) -> anyhow::Result<()> {
    std::thread::spawn(|| {
        // Nothing is ever sent; an error is an end too.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    if let Ok(text) = std::env::var(CRASH_AT) {
        let (point, nth) = text.split_once('=').context("a point and a number")?;
        postern_engine::crash_at(point, nth.parse()?).map_err(anyhow::Error::msg)?;
    }
    let ahead = std::env::var(CLOCK_AHEAD).unwrap_or_else(|_| "0".to_owned());
    let config = Config::load(config)?;
    logging::start(&config.logging.filter, config.logging.format)?;
    let clock: Arc<dyn Clock> = Arc::new(WrongClock(TimeDelta::milliseconds(ahead.parse()?)));
    let mut reach = enforcers::all(&config, &clock).await?;
    reach.enforcers = sabotage::wrap(reach.enforcers)?;
    serve::until_told(&config, reach, clock, Arc::new(RandomIds))
        .await
        .map_err(anyhow::Error::msg)
}

/// Where a server's parts are, and how it is started.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    directory: PathBuf,
    /// The configuration; `{port}` stands for the port.
    config: String,
    ahead_ms: i64,
    sabotage: Option<String>,
    child: Option<Child>,
    url: String,
    /// Whether it was started to die at some point.
    pub doomed: bool,
}

impl Server {
    /// A server that is not started yet.
    pub fn new(
        name: &'static str,
        directory: &Path,
        config: String,
        ahead_ms: i64,
        sabotage: Option<String>,
    ) -> Self {
        Self {
            name,
            directory: directory.to_owned(),
            config,
            ahead_ms,
            sabotage,
            child: None,
            url: String::new(),
            doomed: false,
        }
    }

    /// Starts it on a port that was free a moment ago.
    pub fn start(&mut self, crash: Option<(&str, u32)>) -> anyhow::Result<()> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        let path = self.directory.join(format!("{}.toml", self.name));
        std::fs::write(&path, self.config.replace("{port}", &port.to_string()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(format!("{}.log", self.name)))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["serve", "--config"])
            .arg(&path)
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .env(CLOCK_AHEAD, self.ahead_ms.to_string())
            .env("TOKIO_WORKER_THREADS", "2")
            .env_remove(CRASH_AT)
            .env_remove(sabotage::SABOTAGE)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some((point, nth)) = crash {
            command.env(CRASH_AT, format!("{point}={nth}"));
        }
        if let Some(sabotage) = &self.sabotage {
            command.env(sabotage::SABOTAGE, sabotage);
        }
        self.child = Some(command.spawn().context("a server cannot be started")?);
        self.url = format!("http://127.0.0.1:{port}");
        self.doomed = crash.is_some();
        Ok(())
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        let runs = self
            .child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !runs {
            self.child = None;
        }
        runs
    }

    /// Itself, if it runs.
    pub fn runs_now(&mut self) -> Option<&mut Self> {
        self.runs().then_some(self)
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and SIGKILL where that does not end it in time.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Some(id) = child.id() {
                Command::new("kill").arg(id.to_string()).status().await?;
            }
            if tokio::time::timeout(Duration::from_secs(5), child.wait())
                .await
                .is_err()
            {
                child.kill().await?;
            }
        }
        Ok(())
    }

    /// Waits until it is ready, has ended, or the time is over; whether it is ready.
    pub async fn ready(&mut self, within: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + within;
        while self.runs() && tokio::time::Instant::now() < deadline {
            if answers_ready(&self.url).await.unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        false
    }

    /// A client of it that acts for somebody.
    pub fn client(&self, issuer: &Issuer, user: &str) -> anyhow::Result<Client> {
        let token = issuer.token(user, 3600).map_err(anyhow::Error::msg)?;
        Ok(Client::new(&self.url)?.with_token(token))
    }
}

/// Whether `/readyz` answers 200; asked by hand, so that nothing is kept between two questions.
async fn answers_ready(url: &str) -> std::io::Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let address = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let question = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
