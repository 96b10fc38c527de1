//! What the command line says to people, against a server that runs: in their words, and with what to do next.

use crate::demo::Demo;

const POLICY: &str = r#"{
    "name": "careful", "scope": "/aws",
    "guards": [{ "ports": "22", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 3600 }],
    "approval": { "stages": [{ "needs": 1, "role": "approver" }, { "needs": 2, "approvers": ["group:demo/leads"] }] },
    "authentication": { "mfa": true },
    "pending_for_seconds": 7200,
    "justification": { "ticket_required": true, "ticket_pattern": "OPS-[0-9]+" }
}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_policies_and_machines_are_spoken_of_in_peoples_words() {
    let demo = Demo::start().await;
    let olga = demo.person("olga").await;
    let eve = demo.person("eve").await;

    // Roles are listed, made and removed.
    let listed = olga.told(&["roles"]).await;
    assert!(
        listed.contains("requester") && listed.contains("built in"),
        "{listed}"
    );
    let made = olga
        .json(&[
            "roles",
            "create",
            "on-call",
            "--action",
            "read",
            "--action",
            "break_glass",
        ])
        .await;
    assert_eq!(made["actions"], serde_json::json!(["break_glass", "read"]));
    let (_, told) = eve
        .refused(&["roles", "create", "mine", "--action", "assign"])
        .await;
    assert!(told.contains("`configure`"), "{told}");
    let (code, told) = olga.refused(&["roles", "create", "x", "--action", "fly"]).await;
    assert!(code == Some(2) && told.contains("fly"), "{told}");
    let given = [
        "assignments",
        "create",
        "on-call",
        "user:demo/eve",
        "--on",
        "/aws",
    ];
    let given = olga.json(&given).await["id"].as_str().unwrap().to_owned();
    let (code, told) = olga.refused(&["roles", "delete", "on-call"]).await;
    assert!(
        code == Some(5) && told.contains("remove those role assignments first"),
        "{told}"
    );
    olga.told(&["assignments", "delete", &given]).await;
    assert_eq!(
        olga.told(&["roles", "delete", "on-call"]).await,
        "role `on-call` is removed\n"
    );
    assert!(!olga.told(&["roles"]).await.contains("on-call"));

    // A machine's name is enough to be explained something about it.
    let explained = olga
        .told(&["authz", "explain", "--on", "web-1", "--action", "freeze"])
        .await;
    assert!(explained.contains("/shop/web-1 is allowed"), "{explained}");
    // Of others only the name is known, unless it is said what their token would say.
    let about = [
        "authz",
        "explain",
        "--on",
        "web-1",
        "--principal",
        "user:demo/new",
    ];
    let output = olga.run(&about).await;
    let (explained, told) = crate::rig::said(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(
        explained.contains("no role assignment of user:demo/new grants it")
            && explained.contains("\nassumed of them, for want of a token: no groups; "),
        "{explained}"
    );
    let member = [&about[..], &["--group", "engineers", "--signed-in", "5m"]].concat();
    let explained = olga.told(&member).await;
    assert!(
        explained.contains("is allowed to user:demo/new")
            && explained.contains(
                "assumed of them, for want of a token: groups engineers; no second factor; signed in at 2"
            )
            && explained.contains("; no claims"),
        "{explained}"
    );
    let (code, told) = olga.refused(&["authz", "explain", "--on", "nowhere"]).await;
    assert!(code == Some(4) && told.contains("is named `nowhere`"), "{told}");

    // A policy says whom and what it asks for.
    let file = demo.directory().join("policy.json");
    std::fs::write(&file, POLICY).unwrap();
    let file = file.to_str().unwrap();
    // Before it is made, what it would do.
    let dry = ["policies", "create", "--file", file, "--dry-run"];
    let plan = olga.told(&dry).await;
    assert!(plan.contains("2 under another policy than now"), "{plan}");
    assert!(
        plan.contains("LOSES REACH") && plan.contains("0.0.0.0/0"),
        "{plan}"
    );
    assert_eq!(olga.json(&dry).await["dry_run"], true);
    assert_eq!(olga.json(&["policies"]).await, serde_json::json!([]));
    let made = olga.told(&["policies", "create", "--file", file]).await;
    for words in [
        "1 of the role approver, then 2 of group:demo/leads",
        "2h for approval",
        "a second factor, a ticket like `OPS-[0-9]+`",
    ] {
        assert!(made.contains(words), "{words} in\n{made}");
    }

    let id = olga.json(&["policies"]).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let plan = olga.told(&["policies", "delete", "careful", "--dry-run"]).await;
    assert!(plan.contains("2 under another policy than now"), "{plan}");
    let plan = olga
        .told(&["policies", "update", "careful", "--file", file, "--dry-run"])
        .await;
    assert!(plan.contains("0 under another policy than now"), "{plan}");
    // Its name, its id and the beginning of that are one policy; what is none is said, and where they are listed.
    for which in ["careful", &id, &id[..id.len() - 2]] {
        assert_eq!(olga.json(&["policies", "get", which]).await["id"], id.as_str());
    }
    let (code, told) = olga.refused(&["policies", "get", "carefree"]).await;
    assert!(
        code == Some(4) && told.contains("`postern policies` lists them"),
        "{told}"
    );
    let (code, told) = eve.refused(&["policies", "delete", "careful"]).await;
    assert!(code == Some(4) && told.contains("that you may see"), "{told}");

    // What was frozen does not open by itself.
    let frozen = olga.json(&["freeze", "/aws", "--reason", "intruder"]).await;
    let id = frozen["id"].as_str().unwrap();
    let again = olga.json(&["freeze", "/aws", "--reason", "still there"]).await;
    let (code, told) = olga
        .refused(&["freezes", "lift", "/aws", "--reason", "gone"])
        .await;
    assert!(
        code == Some(2) && told.contains(id) && told.contains("still there"),
        "{told}"
    );
    olga.told(&[
        "freezes",
        "lift",
        again["id"].as_str().unwrap(),
        "--reason",
        "gone",
    ])
    .await;
    let afterwards = olga.told(&["freezes", "lift", "/aws", "--reason", "gone"]).await;
    assert!(
        afterwards.contains("what was closed stays closed"),
        "{afterwards}"
    );

    // Whom a role assignment names is enough, where there is one of them.
    for role in ["reader", "requester"] {
        olga.json(&["assignments", "create", role, "user:demo/eve", "--on", "/aws"])
            .await;
    }
    let taking = ["assignments", "delete", "user:demo/eve"];
    let (code, told) = olga.refused(&taking).await;
    assert!(
        code == Some(2) && told.contains("`reader` of user:demo/eve at /aws") && told.contains("ra_"),
        "{told}"
    );
    let listed = ["assignments", "--principal", "user:demo/eve", "--role", "reader"];
    let id = olga.json(&listed).await[0]["id"].as_str().unwrap().to_owned();
    olga.told(&["assignments", "delete", &id]).await;
    assert!(olga.told(&taking).await.starts_with("ra_"));
    assert_eq!(
        olga.json(&["assignments", "--principal", "user:demo/eve"]).await,
        serde_json::json!([])
    );

    // What is asked for and granted is spoken of by what people see.
    let ada = demo.person("ada").await;
    let asked = ada
        .json(&[
            "request",
            "app-1",
            "--port",
            "22",
            "--source",
            "203.0.113.7",
            "--for",
            "30m",
            "--reason",
            "OPS-1",
            "--ticket",
            "OPS-1",
        ])
        .await;
    let id = asked["id"].as_str().unwrap();
    assert_eq!(asked["status"], "pending", "{asked}");
    let beginning = &id[..id.len() - 3];
    assert_eq!(ada.json(&["requests", "get", beginning]).await["id"], id);
    let sam = demo.person("sam").await;
    let (code, told) = sam.refused(&["approve", "req_ffff"]).await;
    assert!(code == Some(4) && told.contains("--status pending"), "{told}");
    assert_eq!(ada.json(&["withdraw", beginning]).await["status"], "withdrawn");
    let (code, told) = sam.refused(&["approve", beginning]).await;
    assert!(code == Some(4), "it waits for nobody any more: {told}");
    let (code, told) = ada.refused(&["revoke", "app-1"]).await;
    assert!(code == Some(4) && told.contains("`postern grants`"), "{told}");
    demo.interrupted().await;
}
