//! Routes to a firewall on the ARM simulator: a table's own, and those that an interface has in the end.

use serde_json::{Value, json};

use super::Scene;

#[tokio::test]
async fn effective_routes_show_the_users_before_the_systems() {
    let scene = Scene::with(&[]).await;
    let interface = scene.fleet.id("Microsoft.Network/networkInterfaces/nic");
    let accepted = scene
        .client
        .post(&format!("{interface}/effectiveRouteTable"))
        .await;
    assert_eq!(accepted.status, 202);
    let location = accepted.header("location").unwrap();
    let path = location.strip_prefix(&scene.sim.url()).unwrap().to_owned();
    let routes = scene.client.get(&path).await.body["value"].clone();
    let about = |prefix: &str| -> Vec<(String, String, String)> {
        let text = |route: &Value, member: &str| route[member].as_str().unwrap().to_owned();
        routes
            .as_array()
            .unwrap()
            .iter()
            .filter(|route| route["addressPrefix"] == json!([prefix]))
            .map(|route| {
                (
                    text(route, "source"),
                    text(route, "state"),
                    text(route, "nextHopType"),
                )
            })
            .collect()
    };
    let row = |source: &str, state: &str, hop: &str| (source.to_owned(), state.to_owned(), hop.to_owned());
    assert_eq!(
        about("0.0.0.0/0"),
        [
            row("Default", "Invalid", "Internet"),
            row("User", "Active", "VirtualAppliance")
        ]
    );
    assert_eq!(about("10.0.0.0/16"), [row("Default", "Active", "VnetLocal")]);
    let machine = format!("{}/deallocate", scene.machine);
    assert_eq!(scene.client.post(&machine).await.status, 202);
    scene
        .client
        .post(&format!("{interface}/effectiveRouteTable"))
        .await
        .refused(400, "NetworkInterfaceMustBeAttachedToRunningVm");
}

#[tokio::test]
async fn routes_are_parts_of_their_table() {
    let scene = Scene::with(&[]).await;
    let table = scene.fleet.id("Microsoft.Network/routeTables/out");
    let route =
        |prefix: &str, hop: &str| json!({"properties": {"addressPrefix": prefix, "nextHopType": hop}});
    let second = format!("{table}/routes/second");
    assert_eq!(
        scene
            .client
            .put(&second, route("203.0.113.0/24", "Internet"))
            .await
            .status,
        201
    );
    scene
        .client
        .put(&format!("{table}/routes/third"), route("203.0.113.0/24", "None"))
        .await
        .refused(400, "RouteConflict");
    scene
        .client
        .put(&second, route("203.0.113.0/24", "VirtualAppliance"))
        .await
        .refused(400, "RouteNextHopIpAddressInvalid");
    let shown = scene.client.get(&table).await;
    assert_eq!(shown.body["properties"]["routes"][1]["name"], "second");
    assert_eq!(shown.body["properties"]["subnets"], json!([{"id": scene.front}]));
    scene
        .client
        .delete(&table)
        .await
        .refused(400, "InUseRouteTableCannotBeDeleted");
    assert_eq!(scene.client.delete(&second).await.status, 202);
    scene.client.get(&second).await.refused(404, "NotFound");
}
