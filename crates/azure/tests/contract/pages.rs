//! A discovery of which a page fails, and where the next one goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use postern_azure::AzureEnforcer;
use postern_core::{
    enforcer::{DiscoveryPage, EnforceError, Enforcer},
    inventory::Machine,
    point::PointRef,
    testing::at,
    time::ManualClock,
};
use postern_sim::{
    Effect, FaultId, When,
    arm::{ArmOptions, inbound},
};
use serde_json::json;

use crate::scene::{Scene, config, fault, status};

const INTERFACES: &str = "NetworkInterfaces.ListAll";
const MACHINES: &str = "VirtualMachines.ListAll";

/// Two machines, each on a page of its own, behind no firewall.
struct Account {
    scene: Scene,
    clock: ManualClock,
    enforcer: AzureEnforcer,
    /// The calls of a discovery at which nothing fails, by operation.
    calls: BTreeMap<String, u64>,
    machines: Vec<Machine>,
}

impl Account {
    async fn new() -> Self {
        let scene = Scene::start(ArmOptions {
            page_size: 1,
            ..Scene::options()
        })
        .await;
        let clock = ManualClock::new(at(0));
        let enforcer = AzureEnforcer::new(config(&scene.sim), Arc::new(clock.clone())).unwrap();
        let mut account = Self {
            scene,
            clock,
            enforcer,
            calls: BTreeMap::new(),
            machines: Vec::new(),
        };
        let (page, calls) = account.counted().await;
        let page = page.unwrap();
        assert_eq!(page.since, Some(at(10)));
        assert_eq!(page.machines.len(), 2);
        assert_eq!((calls[INTERFACES], calls[MACHINES]), (2, 4), "{calls:?}");
        (account.machines, account.calls) = (page.machines, calls);
        account
    }

    /// Discovers ten seconds after the last time.
    async fn discover(&self) -> Result<DiscoveryPage, EnforceError> {
        self.clock.advance(TimeDelta::seconds(10));
        self.enforcer.discover(&self.scene.web.account(), None).await
    }

    /// Discovers; what that cost.
    async fn counted(&self) -> (Result<DiscoveryPage, EnforceError>, BTreeMap<String, u64>) {
        self.scene.sim.calls().reset();
        let page = self.discover().await;
        let mut calls = self.scene.sim.calls().all();
        calls.remove("Tokens.Issue");
        (page, calls)
    }

    fn fails(&self, operation: &str, when: When, effect: Effect) -> FaultId {
        self.scene.sim.faults().add(fault(operation, when, effect))
    }

    /// Discovers, and fails at the second page of the interfaces, when all else is read.
    async fn fail_at_the_second_page(&self) {
        let second = When::After { skip: 1, count: 1 };
        self.fails(INTERFACES, second, Effect::Latency(Duration::from_millis(500)));
        self.fails(INTERFACES, second, busy());
        let (failed, calls) = self.counted().await;
        assert!(
            matches!(failed, Err(EnforceError::Unavailable { .. })),
            "{failed:?}"
        );
        assert_eq!(calls, self.calls);
    }

    /// Discovers, and reads the first pages of both lists of machines; the second ones fail.
    async fn fail_at_both_second_pages_of_machines(&self) {
        let second = When::After { skip: 2, count: 2 };
        self.fails(MACHINES, second, Effect::Latency(Duration::from_millis(500)));
        self.fails(MACHINES, second, busy());
        self.counted().await.0.unwrap_err();
    }

    fn second_page() -> BTreeMap<String, u64> {
        BTreeMap::from([(INTERFACES.to_owned(), 1)])
    }
}

fn busy() -> Effect {
    status(503, "ServiceUnavailable", None)
}

#[tokio::test]
async fn a_discovery_goes_on_at_the_page_that_failed_and_says_how_old_the_others_are() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    let (page, calls) = account.counted().await;
    let page = page.unwrap();
    assert_eq!(calls, Account::second_page());
    assert_eq!(page.machines, account.machines);
    assert_eq!(page.since, Some(at(20)), "the discovery before");
    let (page, calls) = account.counted().await;
    assert_eq!(calls, account.calls, "what was told is read again");
    assert_eq!(page.unwrap().since, Some(at(40)));
}

#[tokio::test]
async fn a_list_of_which_a_page_fails_twice_begins_anew() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    account.fails("*", When::Next(1), busy());
    let (failed, calls) = account.counted().await;
    assert_eq!((failed.is_err(), calls), (true, Account::second_page()));
    let (page, calls) = account.counted().await;
    assert_eq!(
        calls,
        BTreeMap::from([(INTERFACES.to_owned(), 2)]),
        "from its first page on"
    );
    let page = page.unwrap();
    assert_eq!((page.machines, page.since), (account.machines, Some(at(20))));
}

#[tokio::test]
async fn who_has_to_wait_goes_on_afterwards() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    for _ in 0..3 {
        account.fails("*", When::Next(1), status(429, "TooManyRequests", Some(0)));
        let (failed, calls) = account.counted().await;
        assert!(
            matches!(failed, Err(EnforceError::Throttled { .. })),
            "{failed:?}"
        );
        assert_eq!(calls, Account::second_page());
    }
    let (page, calls) = account.counted().await;
    assert_eq!(calls, Account::second_page());
    assert_eq!(page.unwrap().since, Some(at(20)));
}

#[tokio::test]
async fn a_page_that_leads_nowhere_any_more_is_found_from_the_first_on() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    account.fails("*", When::Next(1), status(400, "InvalidSkipToken", None));
    let (page, calls) = account.counted().await;
    let mut anew = account.calls.clone();
    *anew.get_mut(INTERFACES).unwrap() += 1;
    assert_eq!(calls, anew);
    let page = page.unwrap();
    assert_eq!((page.machines, page.since), (account.machines, Some(at(30))));
}

#[tokio::test]
async fn what_was_read_long_ago_is_read_again() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    account.clock.advance(TimeDelta::minutes(20));
    let (page, calls) = account.counted().await;
    assert_eq!(calls, account.calls);
    assert_eq!(page.unwrap().since, Some(at(30 + 1200)));
}

/// The NSGs were read before the interface had this one.
#[tokio::test]
async fn what_was_read_in_two_goes_and_does_not_go_together_is_read_anew() {
    let account = Account::new().await;
    account.fail_at_the_second_page().await;
    let fleet = &account.scene.fleet;
    let made = fleet
        .security_group("made", &[inbound("ssh", 300, "Allow", "*", "22")])
        .unwrap();
    for name in ["web", "db"] {
        let id = fleet.id(&format!("Microsoft.Network/networkInterfaces/{name}-nic"));
        let mut interface = fleet.get(&id).unwrap();
        interface["properties"]["networkSecurityGroup"] = json!({ "id": made });
        fleet.put(&id, interface).unwrap();
    }
    let (page, calls) = account.counted().await;
    let page = page.unwrap();
    assert_eq!(calls[INTERFACES], 1 + 2);
    assert_eq!(page.since, Some(at(30)));
    let made = PointRef::nsg("00000000-0000-0000-0000-000000000001", "fleet", "made").unwrap();
    for machine in &page.machines {
        assert!(machine.grant_points().contains(&made), "{machine:?}");
    }
}

/// The interfaces were read before the machines had these.
#[tokio::test]
async fn no_machine_is_without_an_interface_because_lists_were_read_in_two_goes() {
    let account = Account::new().await;
    account.fail_at_both_second_pages_of_machines().await;
    let fleet = &account.scene.fleet;
    for name in ["web", "db"] {
        let of = |kind: &str, name: &str| fleet.id(&format!("{kind}/{name}"));
        let old = fleet
            .get(&of("Microsoft.Network/networkInterfaces", &format!("{name}-nic")))
            .unwrap();
        let subnet = &old["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"];
        let new = fleet
            .interface(&format!("{name}-new"), subnet.as_str().unwrap(), None, None)
            .unwrap();
        let machine = of("Microsoft.Compute/virtualMachines", name);
        let mut document = fleet.get(&machine).unwrap();
        document["properties"]["networkProfile"]["networkInterfaces"] = json!([{ "id": new }]);
        fleet.put(&machine, document).unwrap();
    }
    let (page, calls) = account.counted().await;
    let page = page.unwrap();
    assert_eq!((calls[INTERFACES], page.since), (4, Some(at(30))), "all anew");
    for machine in &page.machines {
        let ids: Vec<&str> = machine.interfaces.iter().map(|one| one.id.as_str()).collect();
        assert!(matches!(&ids[..], [only] if only.ends_with("-new")), "{ids:?}");
    }
}

/// Rights may be missing for a moment.
#[tokio::test]
async fn what_might_not_be_read_at_first_is_asked_for_again() {
    let account = Account::new().await;
    let (firewalls, denied) = ("AzureFirewalls.ListAll", status(403, "AuthorizationFailed", None));
    account.fails(firewalls, When::Next(1), denied);
    account.fail_at_the_second_page().await;
    let (page, calls) = account.counted().await;
    let mut both = Account::second_page();
    both.insert(firewalls.to_owned(), 1);
    assert_eq!(calls, both);
    assert_eq!(page.unwrap().machines, account.machines);
}

/// Nothing depends on the machines' power, and it is not forgotten for that.
#[tokio::test]
async fn a_page_of_instance_views_that_leads_nowhere_any_more_makes_no_machine_unknown() {
    let account = Account::new().await;
    account.fail_at_both_second_pages_of_machines().await;
    // Of the two second pages the instance views' comes second.
    let stale = When::After { skip: 1, count: 1 };
    account.fails(MACHINES, stale, status(400, "InvalidSkipToken", None));
    let (page, calls) = account.counted().await;
    assert_eq!(page.unwrap().machines, account.machines);
    assert!(calls[MACHINES] >= 4, "{calls:?}");
}
