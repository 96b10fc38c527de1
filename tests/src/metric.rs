//! What a server says of itself at `/metrics`.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The value of the first line that begins so and has all of `labels` in it. None where there is no such line, or no
/// server.
pub async fn metric(address: &str, line: &str, labels: &[&str]) -> Option<f64> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let question = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let found = answer
        .lines()
        .find(|said| said.starts_with(line) && labels.iter().all(|label| said.contains(label)))?;
    found.rsplit(' ').next()?.parse().ok()
}
