//! A simulated subscription with an enforcer that guards it, and the loop in small.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_azure::{AzureConfig, AzureCredential, AzureEnforcer};
use postern_core::{
    enforcer::{Bindings, Change, Desired, EnforceError, Enforcer, Evidence, Guard, Member, WantedGrant},
    id::GrantId,
    inventory::{Layer, Machine},
    machine::MachineId,
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    testing::{an_id, at, ports},
    time::SystemClock,
};
use postern_sim::{
    Effect, FaultRule, Protocol, When,
    arm::{ArmClient, ArmHandle, ArmOptions, ArmSim, Fleet, inbound},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

/// A network `10.0.0.0/16` with one subnet behind NSG `outer`, in it `web` with an NSG of its own, and `db` with
/// another.
pub(crate) struct Scene {
    pub(crate) sim: ArmHandle,
    pub(crate) fleet: Fleet,
    pub(crate) enforcer: AzureEnforcer,
    pub(crate) web: MachineId,
    pub(crate) web_address: IpAddr,
    pub(crate) outer: PointRef,
    pub(crate) inner: PointRef,
    pub(crate) db: PointRef,
}

pub(crate) fn config(sim: &ArmHandle) -> AzureConfig {
    let mut config = AzureConfig::new(vec!["00000000-0000-0000-0000-000000000001".to_owned()]).unwrap();
    config.endpoint = sim.url().parse().unwrap();
    config.authority = sim.url().parse().unwrap();
    config.credential = AzureCredential::ClientSecret {
        tenant_id: sim.tenant().to_owned(),
        client_id: "postern".to_owned(),
        client_secret: "secret".to_owned().into(),
    };
    // Calls are told from each other here, and none waits for its turn.
    config.budget_percent = 0;
    config
}

pub(crate) fn enforcer(config: AzureConfig) -> AzureEnforcer {
    AzureEnforcer::new(config, Arc::new(SystemClock)).unwrap()
}

pub(crate) fn guard(desired: &mut Desired, machine: &MachineId, policy: u128, guarded: &[&str]) {
    for member in desired
        .members
        .iter_mut()
        .filter(|member| member.machine == *machine)
    {
        member.guard = Some(Guard {
            policy: an_id(policy),
            ports: guarded.iter().map(|text| ports(text)).collect(),
            lockdown: Lockdown::Strict,
            shared_groups: SharedGroups::Refuse,
        });
    }
}

pub(crate) fn grant(number: u128, wanted: &[&str], sources: &[&str]) -> WantedGrant {
    WantedGrant {
        grant: an_id(1000 + number),
        ports: wanted.iter().map(|text| ports(text)).collect(),
        sources: sources.iter().map(|text| text.parse().unwrap()).collect(),
        not_after: at(600),
        opening: false,
    }
}

impl Scene {
    pub(crate) fn options() -> ArmOptions {
        ArmOptions {
            clients: vec![ArmClient::owner("postern", "secret")],
            ..ArmOptions::default()
        }
    }

    pub(crate) async fn new() -> Self {
        Self::start(Self::options()).await
    }

    pub(crate) async fn start(options: ArmOptions) -> Self {
        let sim = ArmSim::start(options).await.unwrap();
        let fleet = sim.fleet();
        fleet.group().unwrap();
        let network = fleet.network("net", "10.0.0.0/16").unwrap();
        let rules = [
            inbound("ssh", 3000, "Allow", "*", "22"),
            inbound("https", 3010, "Allow", "Internet", "443"),
        ];
        let outer = fleet.security_group("Outer-NSG", &rules).unwrap();
        let subnet = fleet
            .subnet(&network, "front", "10.0.1.0/24", Some(&outer))
            .unwrap();
        let web = fleet
            .machine("web", &subnet, &rules, &json!({ "env": "prod" }))
            .unwrap();
        fleet.machine("db", &subnet, &rules, &json!({})).unwrap();
        let subscription = "00000000-0000-0000-0000-000000000001";
        let point = |name: &str| PointRef::nsg(subscription, "fleet", name).unwrap();
        Self {
            enforcer: enforcer(config(&sim)),
            web: web.machine.parse().unwrap(),
            web_address: web.private_address.parse().unwrap(),
            outer: point("Outer-NSG"),
            inner: point("web-nsg"),
            db: point("db-nsg"),
            fleet,
            sim,
        }
    }

    pub(crate) fn nsg_id(&self, point: &PointRef) -> String {
        let PointRef::AzureNsg { name, .. } = point else {
            panic!("{point} is no NSG");
        };
        self.fleet
            .id(&format!("Microsoft.Network/networkSecurityGroups/{name}"))
    }

    /// What is wanted of the two filters before `web`: nothing yet.
    pub(crate) async fn desired(&self) -> Vec<Desired> {
        vec![
            self.desired_at(&self.outer).await,
            self.desired_at(&self.inner).await,
        ]
    }

    /// What is wanted of a filter: nothing yet.
    pub(crate) async fn desired_at(&self, point: &PointRef) -> Desired {
        let account = self.web.account();
        let machines = self.enforcer.discover(&account, None).await.unwrap().machines;
        Desired {
            installation: "test".parse().unwrap(),
            point: point.clone(),
            members: machines
                .iter()
                .filter_map(|machine| member(machine, point))
                .collect(),
            displaced: Vec::new(),
            unsettled: false,
        }
    }

    /// Wants these grants, and no others, on `web`.
    pub(crate) fn grants(&self, desired: &mut Desired, grants: &[&WantedGrant]) {
        for member in desired
            .members
            .iter_mut()
            .filter(|member| member.machine == self.web)
        {
            member.grants = grants.iter().map(|grant| (*grant).clone()).collect();
        }
    }

    pub(crate) async fn apply(&self, desired: &Desired, change: &Change) -> Result<Value, EnforceError> {
        self.enforcer
            .apply(&desired.point, change, &mut Bindings::new())
            .await
    }

    /// Looks, plans and applies until nothing is left to do, as the loop does: after an error it looks again.
    pub(crate) async fn converge(&self, wanted: &[Desired]) {
        for desired in wanted {
            let mut errors = Vec::new();
            'passes: loop {
                assert!(errors.len() < 30, "{errors:#?}");
                let observed = match self.enforcer.observe(desired).await {
                    Ok(observed) => observed,
                    Err(error) => {
                        self.pause(&error).await;
                        errors.push(error);
                        continue;
                    }
                };
                let plan = observed.plan(desired);
                if plan.changes.is_empty() {
                    break;
                }
                let mut bindings = Bindings::new();
                for change in &plan.changes {
                    if let Err(error) = self.enforcer.apply(&desired.point, change, &mut bindings).await {
                        self.pause(&error).await;
                        errors.push(error);
                        continue 'passes;
                    }
                }
            }
        }
    }

    async fn pause(&self, error: &EnforceError) {
        match error {
            EnforceError::Throttled { retry_after, .. } => {
                tokio::time::sleep(retry_after.unwrap_or(Duration::from_millis(50))).await;
            }
            EnforceError::Unavailable { .. } | EnforceError::Conflict { .. } => {}
            other => panic!("{other}"),
        }
    }

    pub(crate) async fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        self.enforcer.observe(desired).await.unwrap().evidence(desired)
    }

    /// Whether packets from the address reach the TCP port of `web` now, as the simulator judges.
    pub(crate) fn reachable(&self, source: &str, port: u16) -> bool {
        self.sim.reachable(
            &self.web.to_string(),
            source.parse().unwrap(),
            port,
            Protocol::Tcp,
            None,
        )
    }

    /// Every rule of both filters, without etags.
    pub(crate) fn rules(&self) -> Vec<Value> {
        [&self.outer, &self.inner]
            .into_iter()
            .flat_map(|point| {
                let nsg = self.fleet.get(&self.nsg_id(point)).unwrap();
                let mut rules = nsg["properties"]["securityRules"].as_array().unwrap().clone();
                rules.sort_by_key(|rule| rule["name"].as_str().unwrap().to_owned());
                rules
            })
            .map(|mut rule| {
                rule.as_object_mut().unwrap().remove("etag");
                rule
            })
            .collect()
    }

    /// Writes and deletes since the counters were reset.
    pub(crate) fn writes(&self) -> u64 {
        self.sim
            .calls()
            .all()
            .iter()
            .filter(|(name, _)| name.ends_with("CreateOrUpdate") || name.ends_with("Delete"))
            .map(|(_, count)| count)
            .sum()
    }
}

fn member(machine: &Machine, point: &PointRef) -> Option<Member> {
    let behind: Vec<_> = machine
        .interfaces
        .iter()
        .filter(|interface| {
            interface
                .layers
                .iter()
                .any(|layer| matches!(layer, Layer::Nsg { point: own, .. } if own == point))
        })
        .collect();
    let addresses: BTreeSet<IpAddr> = behind
        .iter()
        .flat_map(|one| one.addresses.iter().copied())
        .collect();
    (!behind.is_empty()).then(|| Member {
        machine: machine.id.clone(),
        addresses: addresses.into_iter().collect(),
        interfaces: behind.iter().map(|one| one.id.clone()).collect(),
        guard: None,
        approach: None,
        grants: Vec::new(),
    })
}

/// Somebody whom no call should reach.
pub(crate) struct Stranger {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Stranger {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, visits) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&visits);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { address, visits }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/elsewhere", self.address)
    }

    pub(crate) fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

fn answer(status: &str, header: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Where a resource manager is that tells this list, whatever is asked.
pub(crate) async fn lister(listed: &Value) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = answer("200 OK", "", &json!({ "access_token": "t", "expires_in": 3600 }));
    let list = answer("200 OK", "", &json!({ "value": listed }));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asks_for_token = head_of(&mut stream).await.starts_with("POST");
            let answer = if asks_for_token { &token } else { &list };
            let _sent = stream.write_all(answer.as_bytes()).await;
            let _ended = stream.shutdown().await;
        }
    });
    format!("http://{address}/").parse().unwrap()
}

/// A resource manager whose links lead elsewhere.
pub(crate) struct Liar {
    address: SocketAddr,
}

impl Liar {
    pub(crate) async fn listen(nsg: &Value, header: &str, elsewhere: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = answer("200 OK", "", &json!({ "access_token": "t", "expires_in": 3600 }));
        let read = answer("200 OK", "", nsg);
        let list = answer("200 OK", "", &json!({ "value": [], "nextLink": elsewhere }));
        let put = answer(
            "202 Accepted",
            &format!("{header}: {elsewhere}\r\n"),
            &Value::Null,
        );
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = head_of(&mut stream).await;
                let answer = if head.starts_with("POST") {
                    &token
                } else if head.starts_with("PUT") {
                    &put
                } else if head.contains("/networkSecurityGroups/") || head.contains("/networksecuritygroups/")
                {
                    &read
                } else {
                    &list
                };
                let _sent = stream.write_all(answer.as_bytes()).await;
                let _ended = stream.shutdown().await;
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self) -> Url {
        format!("http://{}/", self.address).parse().unwrap()
    }
}

/// What a client asks, up to the empty line.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut request = vec![0; 65_536];
    let mut length = 0;
    while !request[..length].windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut request[length..]).await {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    String::from_utf8_lossy(&request[..length]).to_string()
}

/// Something on the way that knows nothing of the resource manager and says so in HTML.
pub(crate) struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    pub(crate) async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let page = "<html><body>404 Not Found</body></html>";
        let answer = format!(
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
            page.len()
        );
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _head = head_of(&mut stream).await;
                let _sent = stream.write_all(answer.as_bytes()).await;
                let _ended = stream.shutdown().await;
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self) -> Url {
        format!("http://{}/", self.address).parse().unwrap()
    }
}

/// A rule of the simulator's fault layer.
pub(crate) fn fault(operation: &str, when: When, effect: Effect) -> FaultRule {
    FaultRule {
        operation: operation.to_owned(),
        when,
        effect,
    }
}

/// A refusal in ARM's words.
pub(crate) fn status(status: u16, code: &str, retry_after: Option<u64>) -> Effect {
    Effect::Status {
        status,
        code: code.to_owned(),
        message: "as the test wants".to_owned(),
        retry_after,
    }
}
