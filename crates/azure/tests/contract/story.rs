//! Discovery, lockdowns, grants, drift: what the loop sees.

use std::{collections::BTreeMap, net::IpAddr};

use postern_core::{
    enforcer::{EnforceError, Enforcer, Marks},
    id::GrantId,
    inventory::{Layer, Place, Power},
    machine::{Account, MachineId},
    mark::Mark,
    net::Ports,
    point::PointRef,
    reach::{Verdict, reach_machine},
    testing::{an_id, ports},
};
use postern_sim::{
    Protocol, When,
    arm::{ArmOptions, inbound},
};
use serde_json::json;

use crate::scene::{Scene, config, enforcer, fault, grant, guard, lister, status};

const ADA: &str = "203.0.113.7";
const BOB: &str = "198.51.100.1";

#[tokio::test]
async fn discovery_tells_of_marks_where_no_machine_is() {
    let scene = Scene::new().await;
    let account = scene.web.account();
    let marked = async || scene.enforcer.discover(&account, None).await.unwrap().marked;
    assert_eq!(marked().await, Marks::new());
    let mark = "postern:elsewhere lockdown=00000000000070008000000000000001";
    assert_eq!(Mark::parse(mark).unwrap().to_string(), mark);
    let mut left = inbound("left", 200, "Deny", "*", "22");
    left["properties"]["description"] = json!(mark);
    scene.fleet.security_group("orphan", &[left]).unwrap();
    let orphan = PointRef::nsg("00000000-0000-0000-0000-000000000001", "fleet", "orphan").unwrap();
    assert_eq!(
        marked().await,
        Marks::from([(orphan, ["elsewhere".parse().unwrap()].into())])
    );
}

#[tokio::test]
async fn discovery_finds_machines_with_both_filters_over_all_pages() {
    let scene = Scene::start(ArmOptions {
        page_size: 1,
        ..Scene::options()
    })
    .await;
    let accounts = scene.enforcer.accounts().await.found;
    let page = scene.enforcer.discover(&accounts[0], None).await.unwrap();
    assert_eq!(page.next, None);
    assert_eq!(page.machines.len(), 2);
    let web = page
        .machines
        .iter()
        .find(|machine| machine.name == "web")
        .unwrap();
    assert_eq!(web.id, scene.web);
    assert_eq!(web.tags, BTreeMap::from([("env".to_owned(), "prod".to_owned())]));
    assert_eq!(web.power, Power::Running);
    let nic = &web.interfaces[0];
    assert_eq!(nic.addresses, [scene.web_address]);
    assert_eq!(nic.public_addresses.len(), 1);
    assert_eq!(nic.network, ["10.0.0.0/16".parse().unwrap()]);
    assert_eq!(nic.id, nic.id.to_lowercase());
    let [
        Layer::Nsg {
            point: outer,
            place: Place::Subnet,
            rules,
            ..
        },
        Layer::Nsg {
            point: inner,
            place: Place::Interface,
            ..
        },
    ] = nic.layers.as_slice()
    else {
        panic!("{:?}", nic.layers);
    };
    assert_eq!((outer, inner), (&scene.outer, &scene.inner));
    let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "ssh",
            "https",
            "AllowVnetInBound",
            "AllowAzureLoadBalancerInBound",
            "DenyAllInBound"
        ]
    );
    let db = page.machines.iter().find(|machine| machine.name == "db").unwrap();
    assert_eq!(db.grant_points(), [scene.outer.clone(), scene.db.clone()].into());
    let verdict = reach_machine(web, ADA.parse().unwrap(), ports("22")).verdict;
    assert_eq!(verdict, Verdict::Allowed);
    assert!(scene.reachable(ADA, 22));
}

#[tokio::test]
async fn subscriptions_are_found_when_none_is_configured() {
    let scene = Scene::new().await;
    let mut config = config(&scene.sim);
    config.subscriptions.clear();
    let accounts = enforcer(config).accounts().await.found;
    assert_eq!(
        accounts,
        [Account::Azure {
            subscription: "00000000-0000-0000-0000-000000000001".to_owned()
        }]
    );
}

#[tokio::test]
async fn a_subscription_with_an_id_that_is_none_keeps_nobody_from_the_others() {
    let known = Scene::options().subscriptions;
    let listed = [
        ("", "without"),
        ("not an id", "wrong"),
        ("00000000-0000-0000-0000-00000000000A", "other"),
    ];
    let listed = listed.map(|(id, name)| (id.to_owned(), name.to_owned()));
    let scene = Scene::start(ArmOptions {
        subscriptions: known.into_iter().chain(listed).collect(),
        ..Scene::options()
    })
    .await;
    let mut config = config(&scene.sim);
    config.subscriptions.clear();
    let accounts = enforcer(config).accounts().await;
    let found: Vec<String> = accounts.found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "/azure/00000000-0000-0000-0000-000000000001",
            "/azure/00000000-0000-0000-0000-00000000000a"
        ]
    );
    let failed: Vec<_> = accounts
        .failed
        .into_iter()
        .map(|unlisted| (unlisted.scope, unlisted.error.to_string()))
        .collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    for ((scope, error), id) in failed.iter().zip(["``", "`not an id`"]) {
        assert_eq!(scope, "/azure");
        assert!(error.contains(&format!("{id} is no subscription id")), "{error}");
    }
}

#[tokio::test]
async fn a_listed_subscription_whose_id_is_no_text_keeps_nobody_from_the_others() {
    let scene = Scene::new().await;
    let id = |number: u32| format!("00000000-0000-0000-0000-{number:012}");
    let listed = json!([
        { "subscriptionId": id(1), "state": "Enabled" },
        { "subscriptionId": null, "state": "Enabled" },
        { "subscriptionId": 7 },
        { "displayName": "without" },
        { "subscriptionId": null, "state": "Disabled" },
        { "subscriptionId": id(2), "state": "Deleted" },
        { "subscriptionId": id(3), "state": 1 },
        { "subscriptionId": id(4), "state": null },
        "none",
    ]);
    let mut config = config(&scene.sim);
    config.subscriptions.clear();
    config.endpoint = lister(&listed).await;
    config.authority = config.endpoint.clone();
    let accounts = enforcer(config).accounts().await;
    let account = |number| Account::Azure {
        subscription: id(number),
    };
    assert_eq!(accounts.found, [1, 3, 4].map(account), "{:?}", accounts.failed);
    let failed: Vec<String> = accounts
        .failed
        .iter()
        .map(|unlisted| unlisted.error.to_string())
        .collect();
    assert_eq!(failed.len(), 4, "{failed:?}");
    for (error, id) in failed.iter().zip(["`null`", "`7`", "``", "``"]) {
        assert!(error.contains(&format!("{id} is no subscription id")), "{error}");
    }
}

#[tokio::test]
async fn the_whole_story_at_both_filters() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    let before = scene.rules();
    assert!(scene.reachable(ADA, 22) && scene.reachable(BOB, 22) && scene.reachable(BOB, 443));

    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22", "3389"]);
    }
    scene.converge(&wanted).await;
    let locked = scene.rules();
    assert!(!scene.reachable(ADA, 22) && !scene.reachable(BOB, 22));
    assert!(scene.reachable(BOB, 443), "what is not guarded is not closed");

    let (first, second) = (
        grant(1, &["22"], &[ADA]),
        grant(2, &["22"], &[ADA, "203.0.113.0/28"]),
    );
    for one in &mut wanted {
        scene.grants(one, &[&first]);
    }
    scene.converge(&wanted[..1]).await;
    assert!(!scene.reachable(ADA, 22), "one hop is not the way");
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 22));
    assert!(!scene.reachable(ADA, 3389) && !scene.reachable(BOB, 22));

    for one in &mut wanted {
        scene.grants(one, &[&first, &second]);
    }
    scene.converge(&wanted).await;
    for one in &mut wanted {
        scene.grants(one, &[&second]);
    }
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 22), "closing one grant closes no other");
    for one in &mut wanted {
        scene.grants(one, &[]);
    }
    scene.converge(&wanted).await;
    assert!(!scene.reachable(ADA, 22));
    assert_eq!(scene.rules(), locked, "open then close is the identity");
    for one in &mut wanted {
        for member in &mut one.members {
            member.guard = None;
        }
    }
    scene.converge(&wanted).await;
    assert_eq!(scene.rules(), before, "and the policy's end restores what was");
    assert!(scene.reachable(BOB, 22));
}

#[tokio::test]
async fn an_open_and_a_close_cost_the_calls_that_they_must() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(0);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    scene.converge(std::slice::from_ref(&wanted)).await;
    let calls = |names: &[(&str, u64)]| -> BTreeMap<String, u64> {
        names
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    scene.grants(&mut wanted, &[&grant(1, &["22"], &[ADA])]);
    scene.sim.calls().reset();
    scene.converge(std::slice::from_ref(&wanted)).await;
    assert_eq!(
        scene.sim.calls().all(),
        calls(&[
            ("NetworkInterfaces.Get", 1),
            ("NetworkSecurityGroups.Get", 2),
            ("Operations.Get", 1),
            ("SecurityRules.CreateOrUpdate", 1),
        ])
    );
    scene.grants(&mut wanted, &[]);
    scene.sim.calls().reset();
    scene.converge(&[wanted]).await;
    assert_eq!(
        scene.sim.calls().all(),
        calls(&[
            ("NetworkSecurityGroups.Get", 2),
            ("Operations.Get", 1),
            ("SecurityRules.Delete", 1),
        ])
    );
}

#[tokio::test]
async fn five_hundred_grants_closing_at_once_are_one_write() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    scene.converge(std::slice::from_ref(&wanted)).await;
    let locked = scene.rules();
    let many: Vec<_> = (0..500).map(|number| grant(number, &["22"], &[ADA])).collect();
    scene.grants(&mut wanted, &many.iter().collect::<Vec<_>>());
    scene.sim.calls().reset();
    scene.converge(std::slice::from_ref(&wanted)).await;
    assert_eq!(scene.writes(), 1);
    assert_eq!(scene.evidence(&wanted).await.len(), 500);
    scene.grants(&mut wanted, &[]);
    scene.sim.calls().reset();
    scene.converge(&[wanted]).await;
    assert_eq!(scene.writes(), 1);
    assert_eq!(scene.rules(), locked);
}

#[tokio::test]
async fn a_whole_write_gives_way_to_somebodys_edit_and_keeps_what_it_does_not_know() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    let id = scene.nsg_id(&scene.inner);
    let mut theirs = scene.fleet.get(&id).unwrap();
    theirs["properties"]["flushConnection"] = json!(true);
    theirs["properties"]["novelty"] = json!({ "deep": [1, 2.5] });
    theirs["tags"] = json!({ "owner": "them" });
    scene.fleet.put(&id, theirs).unwrap();

    guard(&mut wanted, &scene.web, 1, &["22"]);
    let many: Vec<_> = (0..5).map(|number| grant(number, &["22"], &[ADA])).collect();
    scene.grants(&mut wanted, &many.iter().collect::<Vec<_>>());
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    assert_eq!(plan.changes.len(), 1);
    let rule = inbound("theirs", 150, "Allow", BOB, "8080");
    scene
        .fleet
        .put(&format!("{id}/securityRules/theirs"), rule)
        .unwrap();
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");

    scene.converge(std::slice::from_ref(&wanted)).await;
    let after = scene.fleet.get(&id).unwrap();
    assert_eq!(after["properties"]["flushConnection"], json!(true));
    assert_eq!(after["properties"]["novelty"], json!({ "deep": [1, 2.5] }));
    assert_eq!(after["tags"], json!({ "owner": "them" }));
    assert!(scene.rules().iter().any(|rule| rule["name"] == "theirs"));

    // The precondition holds on the wire too, when the edit comes between our read and our write.
    scene.grants(&mut wanted, &[]);
    let plan = scene.enforcer.observe(&wanted).await.unwrap().plan(&wanted);
    scene.sim.faults().add(fault(
        "NetworkSecurityGroups.CreateOrUpdate",
        When::Next(1),
        status(412, "PreconditionFailed", None),
    ));
    let error = scene.apply(&wanted, &plan.changes[0]).await.unwrap_err();
    assert!(matches!(error, EnforceError::Conflict { .. }), "{error}");
    scene.apply(&wanted, &plan.changes[0]).await.unwrap();
    scene.apply(&wanted, &plan.changes[0]).await.unwrap();
}

#[tokio::test]
async fn a_grant_follows_the_machine_to_its_real_address_or_is_refused() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    for one in &mut wanted {
        for member in one
            .members
            .iter_mut()
            .filter(|member| member.machine == scene.web)
        {
            member.addresses = vec!["10.0.1.200".parse::<IpAddr>().unwrap()];
        }
        scene.grants(one, &[&grant(1, &["3389"], &[ADA])]);
    }
    scene.converge(&wanted).await;
    assert!(scene.reachable(ADA, 3389));

    // Now the interface leaves the NSG.
    let nic = scene.fleet.id("Microsoft.Network/networkInterfaces/web-nic");
    let mut body = scene.fleet.get(&nic).unwrap();
    body["properties"]
        .as_object_mut()
        .unwrap()
        .remove("networkSecurityGroup");
    scene.fleet.put(&nic, body).unwrap();
    let inner = &wanted[1];
    let plan = scene.enforcer.observe(inner).await.unwrap().plan(inner);
    assert_eq!(plan.obstacles[0].code, "machine_not_behind_point");
    assert_eq!(plan.obstacles[0].grants, [an_id(1001)]);
}

#[tokio::test]
async fn the_sweeper_finds_our_marks_and_removes_only_those() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await;
    let before = scene.rules();
    for one in &mut wanted {
        guard(one, &scene.web, 1, &["22"]);
        scene.grants(one, &[&grant(1, &["22"], &[ADA])]);
    }
    scene.converge(&wanted).await;
    let account = wanted[0].point.account();
    let other = "other".parse().unwrap();
    assert_eq!(scene.enforcer.marked(&account, &other).await.unwrap(), []);
    let found = scene
        .enforcer
        .marked(&account, &wanted[0].installation)
        .await
        .unwrap();
    assert_eq!(found.len(), 4);
    for marked in &found {
        scene.enforcer.remove(marked).await.unwrap();
        scene.enforcer.remove(marked).await.unwrap();
    }
    assert_eq!(scene.rules(), before);
    let mut wrong = found[0].clone();
    wrong.resource = scene.nsg_id(&scene.inner);
    let error = scene.enforcer.remove(&wrong).await.unwrap_err();
    assert!(matches!(error, EnforceError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn evidence_names_what_stands() {
    let scene = Scene::new().await;
    let mut wanted = scene.desired().await.remove(1);
    guard(&mut wanted, &scene.web, 1, &["22"]);
    scene.grants(&mut wanted, &[&grant(1, &["22"], &[ADA])]);
    scene.converge(std::slice::from_ref(&wanted)).await;
    let id: GrantId = an_id(1001);
    let evidence = scene.evidence(&wanted).await;
    assert!(evidence[&id].complete);
    assert_eq!(evidence[&id].rules[0]["properties"]["access"], json!("Allow"));
    let wanted_ports: Vec<Ports> = vec![ports("22")];
    assert_eq!(
        wanted
            .members
            .iter()
            .flat_map(|m| &m.grants)
            .next()
            .unwrap()
            .ports,
        wanted_ports
    );
    assert!(scene.sim.reachable(
        &MachineId::to_string(&scene.web),
        ADA.parse().unwrap(),
        443,
        Protocol::Tcp,
        None
    ));
}
