//! `postern access-reviews` as an owner, a reviewer and a stranger have it, against a server that runs.

use crate::{demo::Demo, people::As, rig::said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_starts_an_access_review_a_reviewer_decides_and_a_stranger_sees_nothing_of_it() {
    let demo = Demo::start().await;
    let olga = demo.person("olga").await;
    let sam = demo.person("sam").await;
    let eve = demo.person("eve").await;

    let create = [
        "access-reviews",
        "create",
        "spring cleaning",
        "--on",
        "/",
        "--reviewer",
        "user:demo/sam",
        "--for",
        "14days",
        "--undecided",
        "keep",
    ];
    let (code, told) = eve.refused(&create).await;
    assert!(code != Some(0) && told.contains("`assign`"), "{told}");
    let made = olga.json(&create).await;
    let id = made["id"].as_str().unwrap();

    let listed = sam.told(&["access-reviews", "--mine"]).await;
    assert!(
        listed.contains(id) && listed.contains("spring cleaning"),
        "{listed}"
    );
    let listed = olga.told(&["access-reviews", "--mine"]).await;
    assert_eq!(listed.lines().count(), 1, "a header alone: {listed}");
    let (code, told) = eve.refused(&["access-reviews", "get", id]).await;
    assert!(
        code != Some(0) && told.contains("no such access review"),
        "{told}"
    );

    let shown = sam.told(&["access-reviews", "get", id]).await;
    assert!(
        shown.contains("RECOMMENDED") && shown.contains("group:demo/engineers"),
        "{shown}"
    );
    let whole = sam.json(&["access-reviews", "get", id]).await;
    let item = |principal: &str| {
        let items = whole["items"].as_array().unwrap().iter();
        let mut of = items.filter(|item| item["assignment"]["principal"] == principal);
        of.next().unwrap()["id"].as_str().unwrap().to_owned()
    };
    let decide = async |who: &As<'_>, principal: &str, how: &str| {
        let item = item(principal);
        let arguments = ["access-reviews", "decide", &item, how, "--reason", "asked around"];
        let output = who.run(&arguments).await;
        (output.status.success(), said(&output))
    };
    let (kept, (told, _)) = decide(&sam, "group:demo/engineers", "keep").await;
    assert!(kept);
    assert_eq!(told, "`requester` of group:demo/engineers at / is kept\n");
    let (own, (_, told)) = decide(&sam, "group:demo/leads", "keep").await;
    assert!(!own && told.contains("nobody reviews their own"), "{told}");
    let (last, (_, told)) = decide(&sam, "user:demo/olga", "remove").await;
    assert!(!last && told.contains("last owner"), "{told}");
    let job = "workload:demo/repo:shop/app:ref:refs/heads/main";
    let (stranger, _) = decide(&eve, job, "remove").await;
    assert!(!stranger);
    let (removed, (told, _)) = decide(&sam, job, "remove").await;
    assert!(removed && told.ends_with("is removed\n"), "{told}");
    let left = olga.told(&["assignments"]).await;
    assert!(
        left.contains("engineers") && !left.contains("repo:shop/app"),
        "{left}"
    );

    let cancel = ["access-reviews", "cancel", id, "--reason", "too early"];
    assert!(
        !sam.run(&cancel).await.status.success(),
        "a reviewer may not end it"
    );
    let told = olga.told(&cancel).await;
    assert_eq!(told, format!("{id} is cancelled; no further round starts\n"));
    let open = olga.told(&["access-reviews", "--status", "open"]).await;
    assert!(!open.contains(id), "{open}");
    assert_eq!(demo.interrupted().await, Some(0));
}
