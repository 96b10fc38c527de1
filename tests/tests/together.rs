//! Several machines in two clouds: all of them, or none, or what can be had.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use postern_api::{
    access_request::{AccessRequest, AccessRequestCreateQuery, Mode},
    grant::GrantRevoke,
};
use postern_sim::fault::{Effect, FaultRule, When};
use postern_tests::{Person, World, WorldOptions, world::CLIENT};

const PATIENCE: Duration = Duration::from_mins(1);

async fn world() -> World {
    World::new(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await
}

/// Ada asks for a machine in Azure and one in AWS.
async fn ask(world: &World, mode: Option<Mode>) -> AccessRequest {
    let machines = [world.fleet.web.as_str(), world.fleet.app.as_str()];
    let mut request = postern_tests::world::a_request(&machines, 600);
    request.mode = mode;
    world
        .client(Person::Ada)
        .create_access_request(None, &AccessRequestCreateQuery::default(), &request)
        .await
        .unwrap()
}

/// The request, when each of its grants is as it says.
async fn until(world: &World, id: &str, azure: &str, aws: &str) -> AccessRequest {
    let ada = world.client(Person::Ada);
    world
        .eventually(
            &format!("{azure} in Azure and {aws} in AWS"),
            PATIENCE,
            async || {
                let request = ada.access_request(id).await.ok()?;
                let all = request.grants.iter().all(|grant| {
                    let wanted = if grant.machine.starts_with("arn:") {
                        aws
                    } else {
                        azure
                    };
                    grant.status == wanted
                });
                all.then_some(request)
            },
        )
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_had_in_one_cloud_is_closed_again_in_the_other() {
    let world = world().await;
    let _server = world.serve(&[("POSTERN__LIMITS__OPEN_SECONDS", "8")]).await;
    world.lock_down().await;
    let locked = world.now();

    let both = ask(&world, None).await;
    until(&world, &both.id, "open", "open").await;
    for grant in &both.grants {
        let ada = world.client(Person::Ada);
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    until(&world, &both.id, "closed", "closed").await;

    let refuses = world.fleet.ec2.faults().add(FaultRule {
        operation: "AuthorizeSecurityGroupIngress".into(),
        when: When::Always,
        effect: Effect::Status {
            status: 503,
            code: "Unavailable".into(),
            message: "not today".into(),
            retry_after: None,
        },
    });
    let best = ask(&world, Some(Mode::BestEffort)).await;
    let best = until(&world, &best.id, "open", "closed").await;
    assert_eq!(best.not_opened.len(), 1);
    assert_eq!(best.not_opened[0].machine, world.fleet.app);
    assert!(world.reachable(&world.fleet.web, CLIENT, 22), "what could be had");
    for grant in &best.grants {
        let ada = world.client(Person::Ada);
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    until(&world, &best.id, "closed", "closed").await;

    let none = ask(&world, None).await;
    let none = until(&world, &none.id, "closed", "closed").await;
    let cause = |aws: bool| {
        let mut grants = none.grants.iter();
        let grant = grants
            .find(|grant| grant.machine.starts_with("arn:") == aws)
            .unwrap();
        grant.cause.as_ref().unwrap().kind.clone()
    };
    assert_eq!(
        (cause(false).as_str(), cause(true).as_str()),
        ("not_together", "open_failed")
    );
    assert_eq!(none.not_opened.len(), 1, "the request says which");
    assert_eq!(none.not_opened[0].machine, world.fleet.app);
    for machine in [&world.fleet.web, &world.fleet.app] {
        assert!(!world.reachable(machine, CLIENT, 22), "{machine} is closed");
    }
    world.fleet.ec2.faults().remove(refuses);
    world.assert_sound(locked, Duration::from_secs(5)).await;
}
