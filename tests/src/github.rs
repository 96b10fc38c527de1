//! GitHub's service for the ID tokens of jobs, as far as a job sees it: `GET` of an address with `&audience=`, with the
//! job's own bearer, answered with `{"value": "<token>"}`. Source: GitHub, "`OpenID` Connect reference".

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

/// What a job authenticates with there.
const BEARER: &str = "the-jobs-own-secret";

/// See the module. Ends when it is dropped.
#[derive(Debug)]
pub struct TokenService {
    port: u16,
    given: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TokenService {
    /// Gives out what `mint` makes.
    pub async fn start(mint: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let given = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A job that goes away meanwhile is none of ours.
                let _gone = answer(stream, &mint, &count).await;
            }
        });
        Self { port, given, task }
    }

    /// What the runner gives a job that may have tokens.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        let url = format!("http://127.0.0.1:{}/token?api-version=2.0", self.port);
        [
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", url),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", BEARER.to_owned()),
        ]
    }

    /// How many tokens it gave out.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

async fn answer(stream: TcpStream, mint: &impl Fn() -> String, given: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let asked = head.starts_with("GET /token?api-version=2.0&audience=postern HTTP/1.1\r\n");
    let bearer = head
        .lines()
        .any(|line| line.eq_ignore_ascii_case(&format!("authorization: bearer {BEARER}")));
    let (status, body) = if asked && bearer {
        given.fetch_add(1, Ordering::SeqCst);
        let body = serde_json::json!({ "count": 1, "value": mint() });
        ("200 OK", body.to_string())
    } else {
        ("401 Unauthorized", "{}".to_owned())
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
