//! Telling by mail, over SMTP.

use std::time::Duration;

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
        response::Code,
    },
};
use postern_core::{address::is_public, time::Instant};
use postern_outbound::NotPublic;
use secrecy::ExposeSecret as _;

use crate::{
    channel::{Channel, DeliveryError},
    config::{MailConfig, MailTls, Trouble},
    message::Message,
};

const TIMEOUT: Duration = Duration::from_secs(20);
/// The longest subject that is sent, in characters.
const MAX_SUBJECT: usize = 150;

/// A mail server and who gets mail over it.
#[derive(Debug)]
pub(crate) struct MailChannel {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    server: String,
    port: u16,
    from: Mailbox,
    to: Vec<Mailbox>,
    allow_private: bool,
}

impl MailChannel {
    pub(crate) fn new(config: &MailConfig, allow_private: bool) -> Result<Self, Trouble> {
        if config.to.is_empty() || config.to.len() > 50 {
            return Err("`to` has 1 to 50 entries".into());
        }
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let tls = || TlsParameters::new(config.server.clone()).map_err(|error| error.to_string());
        let (tls, port) = match config.tls {
            MailTls::Starttls => (Tls::Required(tls()?), 587),
            MailTls::Implicit => (Tls::Wrapper(tls()?), 465),
            MailTls::None => (Tls::None, 25),
        };
        let port = config.port.unwrap_or(port);
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.server)
            .port(port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if let (Some(user), Some(password)) = (&config.user, config.password()?) {
            builder = builder.credentials(Credentials::new(
                user.clone(),
                password.expose_secret().to_owned(),
            ));
        }
        let mailbox = |text: &String| {
            text.parse::<Mailbox>()
                .map_err(|_| format!("`{text}` is not a mail address"))
        };
        Ok(Self {
            transport: builder.build(),
            server: config.server.clone(),
            port,
            from: mailbox(&config.from)?,
            to: config.to.iter().map(mailbox).collect::<Result<_, _>>()?,
            allow_private,
        })
    }

    /// The mail client resolves the name itself, so this looks beforehand. That leaves whoever controls the server's
    /// DNS an instant; the server's name is the operator's own, and with TLS it must prove it.
    async fn check_address(&self) -> Result<(), DeliveryError> {
        if self.allow_private {
            return Ok(());
        }
        let found = tokio::net::lookup_host((self.server.as_str(), self.port))
            .await
            .map_err(|error| DeliveryError::passing(format!("`{}`: {error}", self.server)))?;
        let mut found = found.peekable();
        if found.peek().is_none() || found.any(|address| !is_public(address.ip())) {
            return Err(DeliveryError::passing(
                NotPublic::Name(self.server.clone()).to_string(),
            ));
        }
        Ok(())
    }
}

/// Whether a reply refuses who sends, and not what is sent (RFC 4954, section 6: 530, 534, 535, 538).
fn is_about_signing_in(code: Code) -> bool {
    matches!(u16::from(code), 530 | 534 | 535 | 538)
}

#[async_trait]
impl Channel for MailChannel {
    async fn deliver(&self, message: &Message, attempted_at: Instant) -> Result<(), DeliveryError> {
        self.check_address().await?;
        let subject: String = message.summary.chars().take(MAX_SUBJECT).collect();
        let mut text = message.summary.clone();
        if let Some(link) = &message.link {
            text.push_str("\n\n");
            text.push_str(link.address());
        }
        text.push('\n');
        let mut builder = lettre::Message::builder()
            .from(self.from.clone())
            .subject(subject)
            .date(attempted_at.into())
            // The same in every repetition, so that mail programs show it once.
            .message_id(Some(format!("<{}@{}>", message.id, self.from.email.domain())));
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        let mail = builder
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| DeliveryError {
                message: error.to_string(),
                permanent: true,
                retry_after: None,
            })?;
        self.transport
            .send(mail)
            .await
            .map(drop)
            .map_err(|error| DeliveryError {
                message: error.to_string(),
                // RFC 5321, section 4.2.1: 5yz is a permanent negative reply. What is wrong with how we sign in is no
                // fault of the message's, and may be mended.
                permanent: error.is_permanent() && !error.status().is_some_and(is_about_signing_in),
                retry_after: None,
            })
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::at;
    use serde_json::json;
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A mail server that speaks for one connection, offers to take passwords and no TLS, and tells what it heard.
    async fn without_tls() -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"220 here\r\n").await.unwrap();
            let mut lines = BufReader::new(read).lines();
            let mut heard = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = if line.starts_with("EHLO") {
                    "250-here\r\n250 AUTH PLAIN LOGIN\r\n"
                } else {
                    "250 OK\r\n"
                };
                heard.push(line);
                if write.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
            heard
        });
        (port, heard)
    }

    fn message() -> Message {
        Message {
            id: "evt_1".into(),
            cloud_event: json!({}),
            summary: "user:corp/ada asks for access".into(),
            link: None,
            undecided: None,
        }
    }

    #[tokio::test]
    async fn a_server_that_offers_no_tls_hears_neither_the_password_nor_the_message() {
        let (port, heard) = without_tls().await;
        let config: MailConfig = serde_json::from_value(json!({
            "name": "people", "actions": ["grant"], "server": "127.0.0.1", "port": port,
            "user": "postern", "password": "s3cret", "from": "postern@example.com", "to": ["ops@example.com"],
        }))
        .unwrap();
        let channel = MailChannel::new(&config, true).ok().unwrap();
        let failed = channel.deliver(&message(), at(0)).await.unwrap_err();
        assert!(!failed.permanent, "it may be mended: {failed}");
        drop(channel);
        let heard = heard.await.unwrap();
        assert!(heard[0].starts_with("EHLO"), "{heard:?}");
        assert!(
            heard
                .iter()
                .all(|line| line.starts_with("EHLO") || line == "QUIT"),
            "{heard:?}"
        );
    }
}
