//! What a run does, drawn whole from its seed before it begins.

use serde::Serialize;

/// The addresses that packets are judged from.
pub const SOURCES: [&str; 7] = [
    "203.0.113.7",
    "203.0.113.5",
    "203.0.113.200",
    "198.51.100.9",
    "10.9.9.9",
    "2001:db8:1::7",
    "2001:db8:2::1",
];
/// The ports that packets are judged at: guarded ones and their neighbours.
pub const PORTS: [u16; 6] = [22, 23, 443, 3389, 5985, 5986];

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Script {
    /// Where it comes from.
    pub seed: u64,
    /// How far each server's clock is ahead of the truth, in milliseconds.
    pub skew_ms: [i64; 2],
    /// How far EC2's describes lag behind, in milliseconds.
    pub describe_lag_ms: u64,
    /// How long an ARM write takes to be in force, in milliseconds.
    pub operation_ms: u64,
    /// How long an instance is pending or shutting down, in milliseconds.
    pub transition_ms: u64,
    /// The Azure fleet.
    pub azure: AzureFleet,
    /// The AWS fleet.
    pub aws: AwsFleet,
    /// What happens, in order, each after so many milliseconds.
    pub steps: Vec<(u64, Step)>,
    /// Whether grants are left to run out at the end before the policies go.
    pub run_out: bool,
    /// The firewall before some of the Azure machines, if there is one.
    pub firewall: Option<FirewallPlan>,
    /// Another one, in a network of its own, if there is one.
    pub second: Option<FirewallPlan>,
    /// Whether the instances share a group, some isolate from it, and the last is under no policy.
    pub isolates: bool,
}

/// An Azure Firewall and what others have it do.
#[derive(Debug, Clone, Serialize)]
pub struct FirewallPlan {
    /// Whether a firewall policy has its rules; otherwise it has them itself.
    pub policy: bool,
    /// Which subnets have a default route to it.
    pub routed: [bool; 2],
    /// Somebody else's collections.
    pub collections: Vec<FirewallCollection>,
    /// Somebody else's collections of rules for names.
    pub applications: Vec<ApplicationCollection>,
    /// How long a write of it takes to be in force, in milliseconds.
    pub write_ms: u64,
    /// Somebody else's collections in the policy that its policy inherits, if there is one.
    pub parent: Option<Vec<FirewallCollection>>,
}

/// What the rules of a collection do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FirewallAction {
    /// They translate.
    Nat,
    /// They let pass.
    Allow,
    /// They drop.
    Deny,
}

/// Somebody else's rule collection.
#[derive(Debug, Clone, Serialize)]
pub struct FirewallCollection {
    /// Its name.
    pub name: String,
    /// What its rules do.
    pub action: FirewallAction,
    /// 100 to 65000.
    pub priority: u16,
    /// Its rules.
    pub rules: Vec<FirewallRule>,
}

/// A rule of somebody else's at a firewall.
#[derive(Debug, Clone, Serialize)]
pub struct FirewallRule {
    /// Its name.
    pub name: String,
    /// An address, a range or `*`.
    pub source: &'static str,
    /// The machine that it is about, by its number.
    pub machine: usize,
    /// The machine's port.
    pub port: u16,
    /// The firewall's port, where the rule translates.
    pub mapped: u16,
}

/// Somebody else's collection of rules for names at a firewall: what machines may call.
#[derive(Debug, Clone, Serialize)]
pub struct ApplicationCollection {
    /// Its name.
    pub name: String,
    /// Whether its rules drop.
    pub denies: bool,
    /// 100 to 65000.
    pub priority: u16,
    /// Its rules.
    pub rules: Vec<ApplicationRule>,
}

/// A rule for a name.
#[derive(Debug, Clone, Serialize)]
pub struct ApplicationRule {
    /// Its name.
    pub name: String,
    /// An address, a range or `*`.
    pub source: &'static str,
    /// The name that is called, or `*`.
    pub target: &'static str,
    /// The port.
    pub port: u16,
}

/// NSGs, subnets and machines.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AzureFleet {
    /// The rules of each NSG.
    pub nsgs: Vec<Vec<NsgRule>>,
    /// The NSG of each subnet.
    pub subnets: Vec<Option<usize>>,
    /// The machines.
    pub machines: Vec<AzureMachine>,
}

/// An inbound rule of somebody else's.
#[derive(Debug, Clone, Serialize)]
pub struct NsgRule {
    /// Its name.
    pub name: String,
    /// 100 to 4096.
    pub priority: u16,
    /// `Allow` or `Deny`.
    pub access: &'static str,
    /// A prefix, `*` or a service tag.
    pub source: &'static str,
    /// A port, a range or `*`.
    pub ports: String,
}

/// A machine with one interface.
#[derive(Debug, Clone, Serialize)]
pub struct AzureMachine {
    /// Which subnet.
    pub subnet: usize,
    /// The NSG of its interface.
    pub nsg: Option<usize>,
    /// Whether it has an IPv6 address too.
    pub ipv6: bool,
    /// Whether it is tagged `env=prod`; otherwise `env=dev`.
    pub prod: bool,
}

/// Security groups and instances.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AwsFleet {
    /// The rules of each group; [`Peer::Group`] names a group before it.
    pub groups: Vec<Vec<SgRule>>,
    /// The instances.
    pub machines: Vec<AwsMachine>,
}

/// An ingress rule of somebody else's.
#[derive(Debug, Clone, Serialize)]
pub struct SgRule {
    /// None for all traffic.
    pub ports: Option<(u16, u16)>,
    /// Who.
    pub from: Peer,
}

/// Whom a rule lets in.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Peer {
    /// A range.
    Range(&'static str),
    /// The members of a group of the fleet.
    Group(usize),
    /// The fleet's prefix list.
    List,
}

/// An instance.
#[derive(Debug, Clone, Serialize)]
pub struct AwsMachine {
    /// The groups on each interface.
    pub interfaces: Vec<Vec<usize>>,
    /// Whether it is tagged `env=prod`; otherwise `env=dev`.
    pub prod: bool,
}

/// A policy to be made.
#[derive(Debug, Clone, Serialize)]
pub struct PolicySpec {
    /// What it covers.
    pub scope: ScopeSpec,
    /// Whether only machines tagged `env=prod`.
    pub prod_only: bool,
    /// The guarded ports.
    pub guards: Vec<&'static str>,
    /// The word for the lockdown's strictness.
    pub lockdown: &'static str,
    /// The word for what happens to shared groups.
    pub shared_groups: &'static str,
    /// The word for who must agree.
    pub approval: &'static str,
}

/// What a policy covers.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum ScopeSpec {
    /// Everything.
    All,
    /// One cloud.
    Azure,
    /// One cloud.
    Aws,
    /// One machine, by its number.
    Machine(usize),
}

/// Which cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Cloud {
    /// Azure.
    Azure,
    /// AWS.
    Aws,
}

/// What a call meets.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Trouble {
    /// So many milliseconds of delay.
    Latency(u64),
    /// Too many requests, with or without `Retry-After: 1`.
    Throttled(bool),
    /// An internal error.
    Broken,
    /// The connection is cut before anything happens.
    ResetBefore,
    /// The connection is cut after it happened.
    ResetAfter,
}

/// Which of the calls meet it.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Strikes {
    /// The next so many.
    Next(u64),
    /// Every n-th.
    Every(u64),
    /// Three in ten.
    Sometimes,
    /// All.
    Always,
    /// After so many, the next one.
    After(u64),
}

/// An edit behind Postern's back. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Serialize)]
pub enum Edit {
    /// A rule is added to an NSG.
    NsgAdd(usize, NsgRule),
    /// One of the foreign rules of an NSG is deleted.
    NsgDelete(usize, usize),
    /// A rule of ours in an NSG is widened to every source.
    NsgWidenOurs(usize, usize),
    /// A rule of ours in an NSG is turned to another port.
    NsgTurnOurs(usize, usize),
    /// A rule of ours in an NSG is deleted.
    NsgDeleteOurs(usize, usize),
    /// A machine's tags change.
    Retag(usize, bool),
    /// A machine is deleted or terminated.
    Delete(usize),
    /// An instance is stopped.
    Stop(usize),
    /// An instance is started.
    Start(usize),
    /// A rule is added to a security group.
    SgAdd(usize, SgRule),
    /// One of the foreign rules of a group is revoked.
    SgRevoke(usize, usize),
    /// A rule that stood at the beginning is added again.
    SgReAdd(usize, usize),
    /// A rule of ours is revoked.
    SgRevokeOurs(usize),
    /// A rule is added to a group of ours.
    SgWidenOurs(usize),
    /// A group of ours is taken off an interface.
    SgDetachOurs(usize),
    /// A foreign group is put on, or taken off, an interface.
    SgToggle(usize, usize),
    /// Something is edited at the firewall.
    Firewall(FirewallEdit),
    /// The same at the other firewall.
    SecondFirewall(FirewallEdit),
    /// Something is edited at the policy that the firewall's policy inherits.
    Parent(FirewallEdit),
    /// Rules of ours are copied into the policy that the firewall's policy inherits.
    CopyOurs(Copying),
    /// Somebody reads a whole document, for later.
    Read(Document),
    /// Somebody writes a whole document as it was when it was read: what came since is gone, what went since is back.
    Replay(Document),
}

/// What is copied into an inherited policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Copying {
    /// Our collections as they are.
    All,
    /// The rule of ours of that number, into a collection of others that does the same.
    One(usize),
}

/// A document that strangers read and write as a whole, as tools do that keep a state of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Document {
    /// An NSG.
    Nsg(usize),
    /// The firewall, or the group in its policy that others keep their rules in.
    Firewall,
    /// The group in the firewall's policy that is ours.
    OurGroup,
}

/// An edit at the firewall, or of the routes that lead to it. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Serialize)]
pub enum FirewallEdit {
    /// A collection is added.
    AddCollection(FirewallCollection),
    /// A rule is added to a collection of others.
    Add(usize, FirewallRule),
    /// A rule of others is deleted.
    Delete(usize, usize),
    /// A collection of others is deleted.
    DeleteCollection(usize),
    /// A collection of others gets another priority.
    Reprioritize(usize, u16),
    /// What the firewall does about known bad addresses is set: nothing about rules.
    Touch(&'static str),
    /// A rule of ours is widened to every source.
    WidenOurs(usize),
    /// A rule of ours is turned to another port of the machine.
    TurnOurs(usize),
    /// A rule of ours is deleted; its collection stays.
    DeleteOurs(usize),
    /// All of ours is deleted at once.
    DropOurs,
    /// A subnet's route to the firewall is taken away, or put there.
    ToggleRoute(usize),
    /// A collection of rules for names is added.
    AddApplications(ApplicationCollection),
    /// One of those is deleted.
    DeleteApplications(usize),
}

/// One step. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Serialize)]
pub enum Step {
    /// A policy is made.
    CreatePolicy(PolicySpec),
    /// A policy is replaced.
    UpdatePolicy(usize, PolicySpec),
    /// A policy is removed.
    DeletePolicy(usize),
    /// Somebody asks.
    Request {
        /// The machines' numbers.
        machines: Vec<usize>,
        /// The ports.
        ports: Vec<&'static str>,
        /// The sources.
        sources: Vec<&'static str>,
        /// The duration.
        seconds: i64,
        /// In how many milliseconds it shall begin, if later.
        starts_in_ms: Option<i64>,
    },
    /// A grant shall last longer: so many seconds in all.
    Extend(usize, i64),
    /// Somebody else agrees to a pending request.
    Approve(usize),
    /// Somebody else turns a pending request down.
    Deny(usize),
    /// A grant is revoked.
    Revoke(usize),
    /// Somebody edits.
    Edit(Edit),
    /// Calls meet trouble, for so many steps.
    Fault {
        /// Whose calls.
        cloud: Cloud,
        /// Which operations.
        operation: &'static str,
        /// Which of them.
        strikes: Strikes,
        /// What they meet.
        trouble: Trouble,
        /// For how many steps.
        steps: u32,
    },
    /// The next so many accepted ARM writes of the operation fail afterwards.
    FailCompletions(&'static str, u64),
    /// A server dies.
    Kill(usize),
    /// A server is started, killed first if it runs; perhaps to die at a named point.
    Start(usize, Option<(&'static str, u32)>),
    /// A server is stopped in good order and started again.
    Restart(usize),
    /// The database dies and comes back after so many milliseconds.
    KillPostgres(u64),
    /// Nothing, for so many milliseconds.
    Pause(u64),
}
