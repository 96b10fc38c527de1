//! A proxy before an EC2 endpoint that leaves groups or instances out of describes, as EC2 may do for a moment.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// Which describes find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hide {
    /// None.
    Nothing,
    /// Those of security groups that ask by a filter on the group's id.
    Filtered,
    /// Those, and those that ask by the id itself.
    All,
    /// Those of instances.
    Instances,
}

/// The action and the element of its answer that is a list.
const GROUPS: (&str, &str) = ("DescribeSecurityGroups", "securityGroupInfo");
const INSTANCES: (&str, &str) = ("DescribeInstances", "reservationSet");

/// The proxy. Its thread ends with the test program.
pub(crate) struct Veil {
    pub(crate) url: String,
    hide: Arc<Mutex<Hide>>,
}

impl Veil {
    /// Before the endpoint at `url` (`http://<address>:<port>`).
    pub(crate) fn before(url: &str) -> Self {
        let upstream: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hide = Arc::new(Mutex::new(Hide::Nothing));
        let shared = Arc::clone(&hide);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let hide = Arc::clone(&shared);
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || relay(connection?, upstream, &hide));
            }
        });
        Self { url, hide }
    }

    pub(crate) fn hide(&self, hide: Hide) {
        *self.hide.lock().unwrap() = hide;
    }
}

fn relay(mut client: TcpStream, upstream: SocketAddr, hide: &Mutex<Hide>) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some((message, body)) = read(&mut requests)? {
        let asked = |what: &str| body.contains(what);
        let hidden = match *hide.lock().unwrap() {
            Hide::Nothing => None,
            Hide::Filtered => asked("Filter.1.Name=group-id&").then_some(GROUPS),
            Hide::All => (asked("Filter.1.Name=group-id&") || asked("GroupId.1=")).then_some(GROUPS),
            Hide::Instances => Some(INSTANCES),
        };
        if let Some((action, set)) = hidden.filter(|(action, _)| asked(&format!("Action={action}&"))) {
            let nothing = format!(
                "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                 <requestId>veil</requestId><{set}/></{action}Response>"
            );
            write!(
                client,
                "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n\r\n{nothing}",
                nothing.len()
            )?;
            continue;
        }
        let mut server = TcpStream::connect(upstream)?;
        server.write_all(&message)?;
        let Some((answer, _)) = read(&mut BufReader::new(server))? else {
            return Ok(());
        };
        client.write_all(&answer)?;
    }
    Ok(())
}

/// One message with a length, whole, and its body as text; none at the end.
fn read(from: &mut impl BufRead) -> std::io::Result<Option<(Vec<u8>, String)>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        message.extend(&line);
        let line = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    message.extend(&body);
    Ok(Some((message, String::from_utf8_lossy(&body).into_owned())))
}
